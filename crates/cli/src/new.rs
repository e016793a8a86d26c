//! `hyperscale new`: first test files.

use std::io::Write as _;

use hyperscale_plan::nearest;
use serde_json::json;

use crate::args::NewArgs;
use crate::exit::{Exit, Failure};
use crate::{follow, jobs};

struct Template {
    name: &'static str,
    about: &'static str,
    text: &'static str,
}

const TEMPLATES: &[Template] = &[
    Template {
        name: "smallest",
        about: "one page, fifty users, thirty seconds",
        text: include_str!("../templates/smallest.yaml"),
    },
    Template {
        name: "api-with-login",
        about: "one login, whose token all users have; captures and checks",
        text: include_str!("../templates/api-with-login.yaml"),
    },
    Template {
        name: "open-rate",
        about: "starts by the clock along a line, whatever the target does",
        text: include_str!("../templates/open-rate.yaml"),
    },
    Template {
        name: "data-driven",
        about: "rows of data, one for each visit",
        text: include_str!("../templates/data-driven.yaml"),
    },
    Template {
        name: "thresholds",
        about: "what must hold, for CI",
        text: include_str!("../templates/thresholds.yaml"),
    },
];

pub(crate) fn new(args: &NewArgs) -> Result<Exit, Failure> {
    let Some(name) = &args.template else { return list(args) };
    let Some(template) = TEMPLATES.iter().find(|template| template.name == name) else {
        let names = TEMPLATES.iter().map(|template| template.name);
        let hint = match nearest(name, names.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", names.collect::<Vec<_>>().join(", ")),
        };
        return Err(Failure::new(Exit::Invalid, format!("there is no template `{name}`; {hint}")));
    };
    let Some(path) = &args.out else {
        jobs::print(template.text.trim_end())?;
        return Ok(Exit::Passed);
    };
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(template.text.as_bytes()));
    let shown = path.display();
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            let message = format!("{shown} is there already and stays as it is; name another file");
            Failure::new(Exit::Io, message)
        }
        _ => Failure::caused(Exit::Io, &format!("cannot write {shown}"), &error),
    })?;
    follow::say(&format!("written to {shown}; check it with `hyperscale validate {shown}`"));
    Ok(Exit::Passed)
}

fn list(args: &NewArgs) -> Result<Exit, Failure> {
    if args.output == "json" {
        let all: Vec<_> = (TEMPLATES.iter())
            .map(|template| json!({ "name": template.name, "about": template.about }))
            .collect();
        jobs::print_json(&all)?;
    } else {
        for Template { name, about, .. } in TEMPLATES {
            jobs::print(&format!("{name:<16} {about}"))?;
        }
    }
    Ok(Exit::Passed)
}

#[cfg(test)]
mod tests {
    use hyperscale_plan::{CompileOptions, compile};

    use super::*;

    #[test]
    fn every_template_compiles_without_a_warning() {
        for template in TEMPLATES {
            let options = CompileOptions {
                name: template.name,
                sets: &[],
                environment: &|name| (name == "API_PASSWORD").then(|| "secret".to_owned()),
                read_file: &|_, _| Err("no files here".to_owned()),
            };

            let compiled = compile(template.text.as_bytes(), &options);

            let compiled = compiled.unwrap_or_else(|e| panic!("{}: {e}", template.name));
            assert!(compiled.warnings.is_empty(), "{}: {:?}", template.name, compiled.warnings);
        }
    }

    #[test]
    fn a_file_that_is_there_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.yaml");
        std::fs::write(&path, "mine").unwrap();
        let args = NewArgs {
            template: Some("smallest".to_owned()),
            out: Some(path.clone()),
            output: "text".to_owned(),
        };

        assert!(new(&args).is_err());

        assert_eq!(std::fs::read_to_string(path).unwrap(), "mine");
    }
}
