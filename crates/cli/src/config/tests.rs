use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;

/// A value of each setting that is not its default, as a file has it and as a flag does.
const SAMPLES: &[(&str, &str, &str)] = &[
    ("roles", r#"["gate", "manager"]"#, "gate,manager"),
    ("listen", r#""127.0.0.1:7700""#, "127.0.0.1:7700"),
    ("advertise", r#""10.1.0.5:7700""#, "10.1.0.5:7700"),
    ("join", r#"["a:1", "b:2"]"#, "a:1,b:2"),
    ("gates", r#"["e:1", "f:2"]"#, "e:1,f:2"),
    ("peers", r#"["c:1", "d:2"]"#, "c:1,d:2"),
    ("api", r#""127.0.0.1:7781""#, "127.0.0.1:7781"),
    ("metrics", r#""127.0.0.1:9100""#, "127.0.0.1:9100"),
    ("otlp_endpoint", r#""http://127.0.0.1:4318""#, "http://127.0.0.1:4318"),
    (
        "tokens",
        r#"["ann:run:ann-secret", "eve:view:eve-secret"]"#,
        "ann:run:ann-secret,eve:view:eve-secret",
    ),
    ("certs", r#""certs""#, "certs"),
    ("data_dir", r#""data""#, "data"),
    ("cluster", r#""blue""#, "blue"),
    ("environment", r#""staging""#, "staging"),
    ("datacenter", r#""eu""#, "eu"),
    ("cores", "3", "3"),
    ("window", r#""2s""#, "2s"),
    ("execution_lease", r#""20s""#, "20s"),
    ("renewal", r#""1500ms""#, "1500ms"),
    ("leader_lease", r#""3s""#, "3s"),
    ("election", r#""1200ms""#, "1200ms"),
    ("retention", r#""10m""#, "10m"),
    ("drain", r#""5s""#, "5s"),
    ("reap_voters_after", r#""1h""#, "1h"),
    ("api_rate", "7", "7"),
    ("api_burst", "70", "70"),
    ("api_connections", "77", "77"),
    ("gate", r#"["10.0.0.1:7780", "10.0.0.2:7780"]"#, "10.0.0.1:7780,10.0.0.2:7780"),
    ("api_token", r#""a-token""#, "a-token"),
    ("log", r#""debug""#, "debug"),
    ("log_format", r#""json""#, "json"),
];

/// A file, kept as long as the test needs it.
struct Written {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn written(text: &str) -> Written {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hyperscale.toml");
    std::fs::write(&path, text).unwrap();
    Written { _directory: directory, path }
}

fn command_of(key: &str) -> &'static str {
    if matches!(key, "gate" | "api_token") { "jobs" } else { "serve" }
}

fn variable_of(key: &str) -> String {
    let root = Args::command();
    let command = root.find_subcommand(command_of(key)).unwrap();
    let arg = command.get_arguments().chain(root.get_arguments()).find(|arg| arg.get_id() == key);
    arg.unwrap().get_env().unwrap().to_string_lossy().into_owned()
}

fn flag_of(key: &str) -> String {
    let long = if key == "tokens" { "token".to_owned() } else { key.replace('_', "-") };
    format!("--{long}")
}

#[track_caller]
fn parsed(line: &[&str], variables: &[(&str, &str)]) -> Parsed {
    match read(line, variables) {
        Ok(parsed) => parsed,
        Err(error) => panic!("{error}"),
    }
}

fn read(line: &[&str], variables: &[(&str, &str)]) -> Result<Parsed, String> {
    let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
    let line = ["hyperscale"].iter().chain(line).map(OsString::from);
    parse(line, &|name| variables.get(name).map(OsString::from)).map_err(|error| match error {
        ParseError::Usage(error) => error.to_string(),
        ParseError::File(failure) => failure.message().to_owned(),
    })
}

#[track_caller]
fn effective_of(parsed: &Parsed, key: &str) -> (String, Origin) {
    let found = parsed.effective.iter().find(|effective| effective.setting.key == key);
    let found = found.unwrap_or_else(|| panic!("`{key}` is no setting of {}", parsed.command));
    (found.values.join(","), found.origin.clone())
}

#[test]
fn cfg_03_each_setting_is_set_by_file_by_variable_and_by_flag() {
    let keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    let sampled: Vec<&str> = SAMPLES.iter().map(|(key, _, _)| *key).collect();
    assert_eq!(keys, sampled, "each setting has a sample");
    for (key, in_file, text) in SAMPLES {
        let command = command_of(key);
        let file = written(&format!("\n{key} = {in_file}\n"));
        let path = file.path.to_str().unwrap();
        let (variable, flag) = (variable_of(key), flag_of(key));
        let default = effective_of(&parsed(&[command], &[]), key);

        let by_file = effective_of(&parsed(&[command, "--config", path], &[]), key);
        let by_variable = effective_of(&parsed(&[command], &[(&variable, text)]), key);
        let by_flag = effective_of(&parsed(&[command, &flag, text], &[]), key);

        assert_ne!(&default.0, text, "{key}: the sample is the default");
        assert_eq!(default.1, Origin::Default, "{key}");
        assert_eq!(&by_file.0, text, "{key} by file");
        let place = format!("{path}:2:{}", key.len() + 4);
        assert_eq!(by_file.1.to_string(), place, "{key} by file");
        assert_eq!(&by_variable.0, text, "{key} by variable");
        assert_eq!(by_variable.1, Origin::Variable(variable), "{key} by variable");
        assert_eq!(&by_flag.0, text, "{key} by flag");
        assert_eq!(by_flag.1.to_string(), format!("flag {flag}"), "{key} by flag");
    }
}

#[test]
fn cfg_03_a_flag_goes_before_a_variable_and_that_before_a_file() {
    let file = written("cluster = \"file\"\nwindow = \"3s\"\n");
    let path = file.path.to_str().unwrap();
    let variables = [("HYPERSCALE_CONFIG", path), ("HYPERSCALE_CLUSTER", "variable")];

    let by_variable = parsed(&["serve"], &variables);
    let by_flag = parsed(&["serve", "--cluster", "flag"], &variables);

    assert_eq!(effective_of(&by_variable, "cluster").0, "variable");
    assert_eq!(effective_of(&by_flag, "cluster").0, "flag");
    let (window, origin) = effective_of(&by_flag, "window");
    assert_eq!((window.as_str(), matches!(origin, Origin::File(_))), ("3s", true));
    let crate::args::Command::Serve(args) = by_flag.args.command else { panic!("not serve") };
    assert_eq!((args.node.cluster.as_str(), args.node.timers.window.as_secs()), ("flag", 3));
}

#[test]
fn cfg_03_every_flag_of_a_node_is_a_setting() {
    let root = Args::command();
    let serve = root.find_subcommand("serve").unwrap();
    for arg in serve.get_arguments().chain(root.get_arguments()) {
        let id = arg.get_id().as_str();
        let is_setting = SETTINGS.iter().any(|setting| setting.key == id);
        let is_about_settings = ["config", "print_config"].contains(&id);
        assert!(is_setting || is_about_settings, "`{id}` cannot be set in a file");
    }
}

#[test]
fn cfg_04_what_is_wrong_in_a_file_is_told_with_its_place() {
    let rows = [
        ("\nwindwo = \"1s\"\n", ":2:1\n   = did you mean `window`?"),
        ("colour = 1\n", ":1:1\n   = expected one of: roles, listen"),
        ("cores = \"three\"\n", "`cores` is text"),
        ("cluster = 3\n", ":1:11\n   = expected text in quotes"),
        ("roles = [\"gate\", 1]\n", "`roles` is a list"),
        ("cluster = \"a\"\ncluster = \"b\"\n", "duplicate key"),
        ("cluster = \n", ":1:"),
        ("window = \"3\"\n", ":1:10\n   = `3` lacks a unit"),
        ("cores = -1\n", "`-1` is no value for `cores`"),
        ("roles = [\"king\"]\n", "expected one of: gate, manager, worker"),
        ("api = \"here\"\n", "`here` is no value for `api`"),
    ];
    for (text, expected) in rows {
        let file = written(text);

        let error = read(&["serve", "--config", file.path.to_str().unwrap()], &[]).unwrap_err();

        assert!(error.contains(expected), "{text:?} gave: {error}");
        assert!(error.contains("hyperscale.toml:"), "{text:?} gave: {error}");
    }
    let both = written("wndow = \"1s\"\ncluster = 1\n");
    let error = read(&["serve", "--config", both.path.to_str().unwrap()], &[]).unwrap_err();
    assert_eq!(error.matches("error: ").count(), 2, "all are told at once: {error}");
    assert!(
        read(&["serve", "--config", "/no/such/file"], &[]).unwrap_err().contains("cannot read")
    );
}

#[test]
fn cfg_05_what_is_printed_is_a_file_without_secrets_that_says_the_same() {
    let file = written("window = \"3s\"\ncluster = \"a \\\"b\\\"\"\njoin = [\"a:1\", \"b:2\"]\n");
    let path = file.path.to_str().unwrap();
    let line = ["serve", "--config", path, "--token", "ann:run:s3cret-token", "--cores", "2"];

    let shown = parsed(&line, &[("HYPERSCALE_DATACENTER", "eu")]).shown();

    assert!(!shown.contains("s3cret-token"), "{shown}");
    assert!(shown.contains("tokens = [\"ann:run:********\"] # flag --token"), "{shown}");
    assert!(shown.contains("datacenter = \"eu\" # variable HYPERSCALE_DATACENTER"), "{shown}");
    assert!(shown.contains(&format!("window = \"3s\" # {path}:1:10")), "{shown}");
    assert!(shown.contains("election = \"1s\" # default"), "{shown}");
    assert!(shown.contains("# listen is not set"), "{shown}");
    let again = written(&shown);
    let again = parsed(&["serve", "--config", again.path.to_str().unwrap()], &[]);
    for key in ["window", "cluster", "join", "cores", "datacenter", "election"] {
        let first = effective_of(&parsed(&line, &[("HYPERSCALE_DATACENTER", "eu")]), key).0;
        assert_eq!(effective_of(&again, key).0, first, "{key}");
    }
}

#[test]
fn cfg_03_what_a_process_is_comes_from_its_command_before_any_file() {
    let file = written("roles = [\"gate\"]\nlog = \"info\"\n");
    let path = file.path.to_str().unwrap();

    let worker = parsed(&["worker", "--config", path], &[("HYPERSCALE_ROLES", "manager")]);

    assert!(worker.effective.iter().all(|effective| effective.setting.key != "roles"));
}

#[test]
fn cfg_06_one_file_serves_every_command() {
    let all: String = SAMPLES.iter().map(|(key, value, _)| format!("{key} = {value}\n")).collect();
    let file = written(&all);
    let path = file.path.to_str().unwrap();
    let lines: [&[&str]; 8] = [
        &["serve"],
        &["worker"],
        &["run", "test.yaml"],
        &["submit", "test.yaml"],
        &["jobs"],
        &["cert", "init", "--out", "ca"],
        &["cert", "node", "--ca", "ca", "--out", "node", "--roles", "worker"],
        &["validate", "test.yaml"],
    ];
    for line in lines {
        let line: Vec<&str> = line.iter().copied().chain(["--config", path]).collect();

        let parsed = parsed(&line, &[]);

        assert_eq!(parsed.args.log.log, "debug", "{line:?}");
    }
}

#[test]
fn cfg_07_the_page_of_settings_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let current = page();
    if std::env::var_os("HYPERSCALE_WRITE_DOCS").is_some() {
        std::fs::write(path, &current).unwrap();
    }

    let committed = std::fs::read_to_string(path).unwrap_or_default();

    assert!(
        committed == current,
        "docs/configuration.md is stale: HYPERSCALE_WRITE_DOCS=1 cargo test -p hyperscale cfg_07"
    );
}

fn page() -> String {
    let mut page = include_str!("page.md").to_owned();
    let root = Args::command();
    for setting in SETTINGS {
        let readers: Vec<&str> = root
            .get_subcommands()
            .filter(|command| has(command, setting.key))
            .map(|command| command.get_name())
            .collect();
        let is_global = has(&root, setting.key);
        let command = root.find_subcommand(readers.first().unwrap_or(&"serve")).unwrap();
        let arg = command.get_arguments().chain(root.get_arguments());
        let arg = arg.into_iter().find(|arg| arg.get_id() == setting.key).unwrap();
        let kind = match setting.kind {
            Kind::Text | Kind::Secret => "text",
            Kind::Count => "whole number",
            Kind::List | Kind::Tokens => "list of texts",
        };
        let default: Vec<_> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let help = arg.get_help().unwrap().to_string().replace('|', "\\|");
        let readers = if is_global { "all".to_owned() } else { readers.join(", ") };
        page.push_str(&format!(
            "| `{}` | {kind} | {} | `--{}` | `{}` | {readers} | {help} |\n",
            setting.key,
            default.join(","),
            arg.get_long().unwrap(),
            arg.get_env().unwrap().to_string_lossy(),
        ));
    }
    page
}

#[test]
fn every_command_shows_examples() {
    for command in Args::command().get_subcommands() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();

        assert!(help.starts_with("Examples:\n  hyperscale "), "{} has none", command.get_name());
        for line in help.lines().skip(1) {
            assert!(line.contains("hyperscale"), "{line}");
        }
    }
}
