//! Which rows of the acceptance matrix have tests: those whose names carry the row's id.
//!
//! `docs/scenarios.tsv` is the matrix, `docs/scenarios.md` what is made of it and of the names of
//! all tests in the workspace. `HYPERSCALE_WRITE_DOCS=1 cargo test -p hyperscale --test scenarios`
//! writes it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A row: its id, group, what is given and expected, how it is shown, and its rank.
struct Row {
    id: String,
    group: String,
    given: String,
    level: String,
    priority: String,
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/scenarios.tsv")).unwrap();
    let parse = |line: &str| {
        let cells: Vec<&str> = line.split('\t').collect();
        let [id, group, given, _, level, priority] = cells[..] else {
            panic!("a row has six cells: {line}")
        };
        let own = str::to_owned;
        let (id, group, given) = (own(id), own(group), own(given));
        Row { id, group, given, level: own(level), priority: own(priority) }
    };
    text.lines().map(parse).collect()
}

/// All tests by the ids that their names begin with: `dsp_03_sta_05_what` has two.
fn tests() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut directories = vec![root().join("crates")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                for name in text.lines().filter_map(test_name) {
                    let place = path.strip_prefix(root()).unwrap().display();
                    for id in ids(name) {
                        found.entry(id).or_default().insert(format!("`{name}` ({place})"));
                    }
                }
            }
        }
    }
    found
}

fn test_name(line: &str) -> Option<&str> {
    let rest = line.trim_start();
    let rest = rest.strip_prefix("async ").unwrap_or(rest).strip_prefix("fn ")?;
    rest.split(['(', '<']).next()
}

/// The ids at the beginning of a name.
fn ids(name: &str) -> Vec<String> {
    let words: Vec<&str> = name.split('_').collect();
    let is_id = |pair: &[&str]| {
        let [letters, digits] = pair else { return false };
        let are_letters = letters.len() == 3 && letters.chars().all(|c| c.is_ascii_lowercase());
        are_letters && digits.len() == 2 && digits.chars().all(|c| c.is_ascii_digit())
    };
    let pairs = words.chunks(2).take_while(|pair| is_id(pair));
    pairs.map(|pair| format!("{}-{}", pair[0].to_uppercase(), pair[1])).collect()
}

fn document() -> String {
    let (rows, tests) = (rows(), tests());
    let has_test = |row: &&Row| tests.contains_key(&row.id);
    let (with, all) = (rows.iter().filter(has_test).count(), rows.len());
    let mut text = String::from("# Scenarios\n\n");
    text += "What the system must do, and the tests that show it. Made from `scenarios.tsv` and the \
             names of tests by `HYPERSCALE_WRITE_DOCS=1 cargo test -p hyperscale --test scenarios`.\n\n";
    text += "A row's level says how it is shown best: U in a unit or property test, S in the \
             simulator, E with real processes. The simulator's sweeps check the invariants of many \
             rows at once; only tests that carry a row's id are listed here.\n\n";
    writeln!(text, "{with} of {all} rows have a test.\n\n## Rows without one\n").unwrap();
    for priority in ["P0", "P1", "P2"] {
        let missing = rows.iter().filter(|row| !has_test(row) && row.priority == priority);
        let missing: Vec<&str> = missing.map(|row| row.id.as_str()).collect();
        let missing = if missing.is_empty() { "none".to_owned() } else { missing.join(", ") };
        writeln!(text, "- {priority}: {missing}").unwrap();
    }
    let mut group = "";
    for row in &rows {
        if row.group != group {
            group = &row.group;
            writeln!(text, "\n## {group}\n\n| id | what | level | rank | tests |").unwrap();
            text += "|---|---|---|---|---|\n";
        }
        let shown = tests
            .get(&row.id)
            .map(|names| names.iter().cloned().collect::<Vec<String>>().join("<br>"));
        let Row { id, given, level, priority, .. } = row;
        let shown = shown.unwrap_or_else(|| "**none**".to_owned());
        writeln!(text, "| {id} | {given} | {level} | {priority} | {shown} |").unwrap();
    }
    text
}

#[test]
fn the_page_of_scenarios_is_current() {
    let path = root().join("docs/scenarios.md");
    let expected = document();
    if std::env::var_os("HYPERSCALE_WRITE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == expected,
        "docs/scenarios.md is old: HYPERSCALE_WRITE_DOCS=1 cargo test -p hyperscale --test scenarios"
    );
}

#[test]
fn names_are_read_for_their_ids() {
    assert_eq!(ids("orp_02_sta_05_nothing_restarts"), ["ORP-02", "STA-05"]);
    assert_eq!(ids("a_name_of_its_own"), [""; 0]);
    assert_eq!(test_name("    async fn mem_02_what() {"), Some("mem_02_what"));
}

#[test]
fn the_system_map_names_only_what_is_there() {
    let text = fs::read_to_string(root().join("docs/system-map.md")).unwrap();
    let tests = tests();
    let mut rows = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, places, ids, _] = cells[..] else { panic!("a row has four cells: {row}") };
        for place in places.split(", ").filter(|place| *place != "none") {
            assert!(root().join(place.trim_matches('`')).is_file(), "{place} is not there: {row}");
        }
        for id in ids.split(", ").filter(|id| *id != "none") {
            assert!(tests.contains_key(id), "no test begins with {id}: {row}");
        }
        rows += 1;
    }
    assert!(rows > 30, "the table was read");
}
