//! The language as its users see it: a gallery of mistakes with the messages they get, and the
//! examples that people copy.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use hyperscale_plan::{CompileOptions, Compiled, Diagnostics, compile};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compiles a file as the command line does, with an environment of its own.
fn compile_file(path: &Path) -> Result<Compiled, Diagnostics> {
    let directory = path.parent().unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let options = CompileOptions {
        name,
        sets: &[],
        environment: &|name| match name {
            "API_TOKEN" => Some("a token of tests".to_owned()),
            _ => None,
        },
        read_file: &|file, max| {
            let file = [directory.join(file), directory.join("../files").join(file)]
                .into_iter()
                .find(|path| path.exists())
                .ok_or("no such file")?;
            let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
            if bytes.len() > max { Err("it is too large".to_owned()) } else { Ok(bytes) }
        },
    };
    compile(&std::fs::read(path).unwrap(), &options)
}

fn yaml_files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

/// Compares what files are told with the texts beside them. With `BLESS=1` those texts are written:
/// read the difference before you commit it.
#[track_caller]
fn compare(directory: &str, least: usize, told: impl Fn(Result<Compiled, Diagnostics>) -> String) {
    let is_blessing = std::env::var_os("BLESS").is_some();
    let files = yaml_files(&root().join("tests/data").join(directory));
    let mut wrong = Vec::new();

    for file in &files {
        let message = told(compile_file(file));
        let expected = file.with_extension("txt");
        if is_blessing {
            std::fs::write(&expected, &message).unwrap();
        }
        if std::fs::read_to_string(&expected).unwrap_or_default() != message {
            wrong.push(format!("{}:\n{message}", file.display()));
        }
    }

    assert!(files.len() >= least, "only {} files in {directory}", files.len());
    assert!(wrong.is_empty(), "unexpected messages; BLESS=1 accepts them:\n{}", wrong.join("\n"));
}

#[test]
fn bad_files_get_the_messages_beside_them() {
    compare("bad", 40, |result| match result {
        Ok(_) => "this file was taken\n".to_owned(),
        Err(errors) => errors.to_string(),
    });
}

#[test]
fn doubtful_files_get_the_warnings_beside_them() {
    compare("doubtful", 8, |result| match result {
        Ok(compiled) => {
            let warnings: Vec<String> = compiled.warnings.iter().map(ToString::to_string).collect();
            warnings.join("\n")
        }
        Err(errors) => format!("this file was refused\n{errors}"),
    });
}

#[test]
fn examples_compile_without_warnings() {
    let files = yaml_files(&root().join("../../examples"));

    assert!(files.len() >= 8, "only {} examples", files.len());
    for file in files {
        let compiled =
            compile_file(&file).unwrap_or_else(|errors| panic!("{}:\n{errors}", file.display()));
        let warnings: String = compiled.warnings.iter().map(ToString::to_string).collect();
        assert!(warnings.is_empty(), "{}:\n{warnings}", file.display());
    }
}
