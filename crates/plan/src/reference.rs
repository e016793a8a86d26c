//! What people and editors read: the reference and the JSON Schema, from the table that the
//! compiler checks files with.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::expr::functions::SIGNATURES;
use crate::keys::{EXECUTORS, Key, Kind, SECTIONS, Section};
use crate::shape::{section as section_of, words};

/// The JSON Schema (draft 2020-12) of test files, for editors.
#[must_use]
pub fn json_schema() -> Value {
    let definitions: Map<String, Value> = SECTIONS
        .iter()
        .filter(|section| !section.keys.is_empty())
        .map(|section| (section.name.to_owned(), section_schema(section)))
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Hyperscale test",
        "$ref": "#/$defs/test",
        "$defs": definitions,
    })
}

fn section_schema(section: &Section) -> Value {
    let properties: Map<String, Value> = section
        .keys
        .iter()
        .filter(|key| !matches!(key.kind, Kind::Unsupported))
        .map(|key| (key.name.to_owned(), key_schema(key)))
        .collect();
    let kind = if section.name == "env" { json!(["object", "null"]) } else { json!("object") };
    let mut schema = json!({
        "type": kind,
        "properties": properties,
        "additionalProperties": false,
    });
    if !section.required.is_empty() {
        schema["required"] = json!(section.required);
    }
    if !section.doc.is_empty() {
        schema["description"] = json!(section.doc);
    }
    schema
}

fn key_schema(key: &Key) -> Value {
    let mut schema = kind_schema(&key.kind);
    if let Some(object) = schema.as_object_mut() {
        let default = if key.default.is_empty() {
            String::new()
        } else {
            format!(" Default: {}.", key.default)
        };
        object.insert("description".to_owned(), json!(format!("{}.{default}", key.doc)));
    }
    schema
}

/// Holes are possible wherever a value is read, so constants may be text too.
fn kind_schema(kind: &Kind) -> Value {
    const HOLE: &str = r"\$\{.+\}";
    let or_hole =
        |schema: Value| json!({ "anyOf": [schema, { "type": "string", "pattern": HOLE }] });
    match kind {
        Kind::Text | Kind::Template | Kind::File => {
            json!({ "type": ["string", "number", "boolean"] })
        }
        Kind::Expr => json!({ "type": ["string", "number", "boolean"] }),
        Kind::Bool => or_hole(json!({ "type": "boolean" })),
        Kind::Count => or_hole(json!({ "type": "integer", "minimum": 0 })),
        Kind::Duration => json!({
            "anyOf": [
                { "type": "string", "pattern": format!(r"^([0-9][0-9._]*(ns|us|µs|ms|s|m|h|d))+$|{HOLE}") },
                { "const": 0 },
            ],
        }),
        Kind::Rate => json!({
            "anyOf": [
                { "type": "string", "pattern": format!(r"^[0-9][0-9._]* *(/s|/m|/h)$|{HOLE}") },
                { "const": 0 },
            ],
        }),
        Kind::Share => json!({
            "anyOf": [
                { "type": "string", "pattern": format!(r"^[0-9][0-9._]* *%$|{HOLE}") },
                { "const": 0 },
            ],
        }),
        Kind::Instant => json!({ "type": "string" }),
        Kind::Json => json!({}),
        Kind::Choice(names) => {
            // `2` and `1.1` may be written without quotes.
            let mut values: Vec<Value> = Vec::new();
            for name in *names {
                values.push(json!(name));
                if let Ok(number) = name.parse::<f64>() {
                    values.push(json!(number));
                }
            }
            or_hole(json!({ "enum": values }))
        }
        Kind::Section(name) => json!({ "$ref": format!("#/$defs/{name}") }),
        Kind::List(inner) => json!({ "type": "array", "items": kind_schema(inner) }),
        Kind::Map(inner) => json!({ "type": "object", "additionalProperties": kind_schema(inner) }),
        Kind::OneOf(kinds) => json!({ "anyOf": kinds.iter().map(kind_schema).collect::<Vec<_>>() }),
        Kind::Unsupported => json!(false),
    }
}

const HEAD: &str = "\
# Test files

Generated from the table of keys that the compiler checks files with. Unknown keys are errors; a \
value that carries a unit is never a bare number.

```yaml
target: http://127.0.0.1:8080
workflows:
  front:
    load: { vus: 50, duration: 30s }
    steps: [ { get: / } ]
```

## YAML

A file is one document of YAML 1.2, without tags and merge keys; anchors and aliases count as if written \
out. Text that begins with one of `[ ] { } * & ! % @ | > # \"` or holds `: ` or ` #` stands in \
quotes; so does text with `,` or brackets inside `[…]` and `{…}`, as in \
`{ get: \"/users/${vu.id}\" }`.

## Values

Durations are `250ms`, `1m30s` (ns, us, ms, s, m, h, d); sizes `10KiB`, `5MB`; rates `500/s`, \
`30/m`; percentages `1%`; ranges `1s..3s`. Any value can be overridden: \
`--set workflows.browse.load.max_vus=50`; places of a list are numbers from 0. Paths of files are relative to the test \
file. Names that expressions use have at most 64 letters, digits and `_`, a letter first; those of \
workflows may hold `-` too.

";

const EXPRESSIONS: &str = "\
## Expressions

Text may hold `${…}`; `$${` stands for the characters `${`. Conditions (`when`, `check`, …) and \
`set` are expressions as a whole, without `${…}`. A hole that is a whole value of `json` keeps its \
type. Where a value must be known before the test runs, only `vars`, `env` and functions without \
randomness can be used.

Names: `vars.x`, `env.X`, `secrets.X`, `vu.id` (from 1), `vu.iteration` (from 0), `run.id`, \
`datacenter`, `now` (milliseconds since 1970), data rows by their source's name (`users.name`), \
captures and variables by theirs, what a workflow before this one publishes as \
`workflow.name`. Checks also know `status`, `latency`, `first_byte`, `size` and `body`.

Operators, loosest first: `a ? b : c`; `||`; `&&`; `== != < <= > >= in`; `+ -`; `* / %`; `! -`. \
`x in 200..299` includes both ends; `in` also looks into lists and the keys of maps. Whole \
numbers divide to whole numbers. A condition is true or false: other values must be compared. A \
figure with a unit is compared with one (`latency < 500ms`, `size > 1KiB`). Text stands in `\"…\"` \
or `'…'`, lists in `[…]`, maps in `{ key: value }`.

Randomness follows `run.seed`: the same seed gives each user the same choices.

";

/// The reference of test files in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut out = HEAD.to_owned();
    for section in SECTIONS {
        // `write!` to a string cannot fail.
        write!(out, "## {}\n\n", section.heading).unwrap_or_default();
        if !section.doc.is_empty() {
            write!(out, "{}\n\n", section.doc).unwrap_or_default();
        }
        if section.name == "load" {
            executors(&mut out);
        }
        if section.keys.is_empty() {
            continue;
        }
        out.push_str("| key | value | default | meaning |\n|---|---|---|---|\n");
        for key in section.keys {
            key_row(&mut out, section, key);
        }
        out.push('\n');
    }
    out.push_str(EXPRESSIONS);
    out.push_str("| function | meaning |\n|---|---|\n");
    for signature in &SIGNATURES {
        let doc = cell(signature.doc);
        writeln!(out, "| `{}` | {doc} |", cell(signature.example)).unwrap_or_default();
    }
    out
}

const STEERING: &str = "\
**While it runs** a load can be paused and scaled: `hyperscale jobs pause JOB`, `jobs resume JOB`, \
`jobs scale JOB WORKFLOW=AMOUNT`, keys of the screen, or the API. Paused, running iterations end and \
none starts. As with k6 the load's time stands still then: a duration counts what is left of it, a line \
goes on where it was, no start is lost; the job's `deadline` goes on. An amount is a number of users \
(`50`; of `externally-controlled` up to `max_vus`, of other loads with users at most what is planned), a \
rate (`200/s`, of `constant-arrival-rate`) or a share of the plan (`40%`), never more than planned. Of \
an arrival rate so many of the planned starts are made, evenly among them. Loads of a fixed number of \
iterations can be paused, not scaled. What runs after a stop is not paused.

";

fn executors(out: &mut String) {
    out.push_str("| executor | keys | meaning |\n|---|---|---|\n");
    for executor in &EXECUTORS {
        let keys: Vec<String> = executor
            .keys
            .iter()
            .map(|key| {
                if executor.required.contains(key) {
                    format!("**`{key}`**")
                } else {
                    format!("`{key}`")
                }
            })
            .collect();
        let doc = executor.doc;
        writeln!(out, "| `{}` | {} | {doc} |", executor.name, keys.join(", ")).unwrap_or_default();
    }
    out.push_str("\nKeys in bold must be there. `find-max` is reserved.\n\n");
    out.push_str(STEERING);
}

fn key_row(out: &mut String, section: &Section, key: &Key) {
    let is_required = section.required.contains(&key.name);
    let default = match key.default {
        _ if is_required => "required",
        default => default,
    };
    let kind = match key.kind {
        Kind::Unsupported => "not supported yet".to_owned(),
        kind => linked(&kind),
    };
    let (kind, default, doc) = (cell(&kind), cell(default), cell(key.doc));
    writeln!(out, "| `{}` | {kind} | {default} | {doc} |", key.name).unwrap_or_default();
}

/// A kind in words, with links to the sections it names.
fn linked(kind: &Kind) -> String {
    match kind {
        Kind::Section(name) => {
            let section = section_of(name);
            format!("[{}](#{})", section.heading.to_lowercase(), section.anchor)
        }
        Kind::List(inner) => format!("list of {}", linked(inner)),
        Kind::Map(inner) => format!("names, each with {}", linked(inner)),
        Kind::OneOf(kinds) => kinds.iter().map(linked).collect::<Vec<_>>().join(" or "),
        kind => words(kind),
    }
}

/// Text that does not end a cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::yaml;

    #[test]
    fn the_committed_reference_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/test-file.md");
        let fresh = reference();
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &fresh).unwrap();
        }

        let committed = std::fs::read_to_string(&path).unwrap_or_default();

        assert!(committed == fresh, "docs/test-file.md is stale: run this test with BLESS=1");
    }

    #[test]
    fn messages_lead_to_headings() {
        let text = reference();
        let mut anchors: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .map(|heading| heading.to_lowercase().replace(' ', "-"))
            .collect();
        for section in SECTIONS {
            assert!(anchors.iter().any(|a| a == section.anchor), "no heading {}", section.anchor);
        }
        anchors.sort();
        anchors.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1], "two headings"));
        assert!(["values", "expressions", "limits"].iter().all(|a| anchors.iter().any(|b| a == b)));
    }

    fn to_json(node: &yaml::Node) -> Value {
        match &node.kind {
            yaml::Kind::Scalar(scalar) => match scalar.meaning() {
                yaml::Plain::Null => Value::Null,
                yaml::Plain::Bool(value) => value.into(),
                yaml::Plain::Int(number) => number.into(),
                yaml::Plain::Float(number) => number.into(),
                yaml::Plain::Text(text) => text.into(),
            },
            yaml::Kind::List(items) => items.iter().map(to_json).collect(),
            yaml::Kind::Map(entries) => entries
                .iter()
                .map(|(key, value)| (key.as_text().unwrap().to_owned(), to_json(value)))
                .collect::<Map<_, _>>()
                .into(),
        }
    }

    /// The part of JSON Schema that we write.
    fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
        let Some(schema) = schema.as_object() else { return *schema == Value::Bool(true) };
        schema.iter().all(|(keyword, rule)| match keyword.as_str() {
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                fits(root, &root["$defs"][name], value)
            }
            "anyOf" => rule.as_array().unwrap().iter().any(|other| fits(root, other, value)),
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "type" => {
                let is = |name: &str| match name {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "number" => value.is_number(),
                    "integer" => value.is_i64(),
                    "boolean" => value.is_boolean(),
                    _ => value.is_null(),
                };
                match rule {
                    Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
                    name => is(name.as_str().unwrap()),
                }
            }
            "pattern" => value.as_str().is_none_or(|text| {
                regex::Regex::new(rule.as_str().unwrap()).unwrap().is_match(text)
            }),
            "minimum" => value.as_i64().is_none_or(|number| number >= 0),
            "items" => {
                value.as_array().is_none_or(|items| items.iter().all(|i| fits(root, rule, i)))
            }
            "required" => value.as_object().is_none_or(|object| {
                rule.as_array()
                    .unwrap()
                    .iter()
                    .all(|key| object.contains_key(key.as_str().unwrap()))
            }),
            "properties" => value.as_object().is_none_or(|object| {
                object.iter().all(|(key, v)| rule.get(key).is_none_or(|rule| fits(root, rule, v)))
            }),
            "additionalProperties" => value.as_object().is_none_or(|object| {
                let known = schema.get("properties");
                object
                    .iter()
                    .filter(|(key, _)| known.is_none_or(|known| known.get(key).is_none()))
                    .all(|(_, v)| fits(root, rule, v))
            }),
            "$schema" | "$defs" | "title" | "description" => true,
            other => panic!("the schema uses `{other}`, which this test does not know"),
        })
    }

    #[test]
    fn the_schema_takes_the_examples_and_refuses_slips() {
        let schema = json_schema();
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        for entry in std::fs::read_dir(examples).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let json = to_json(&yaml::parse(0, &text).unwrap());
                assert!(fits(&schema, &schema, &json), "the schema refuses {}", path.display());
            }
        }
        for (load, is_right) in [
            (json!("once"), true),
            (json!({ "vus": 5, "duration": "1m30s" }), true),
            (json!({ "vus": "${env.VUS}", "duration": "${env.TIME}" }), true),
            (json!({ "vus": 5, "duration": 30 }), false),
            (json!({ "vus": "five", "duration": "30s" }), false),
            (json!({ "vsu": 5 }), false),
            (json!({ "rate": "500/s", "stages": [ { "to": "5/s", "over": "1s" } ] }), true),
            (json!({ "rate": 500 }), false),
        ] {
            let file =
                json!({ "workflows": { "w": { "load": load, "steps": [ { "get": "/" } ] } } });
            assert_eq!(fits(&schema, &schema, &file), is_right, "{load}");
        }
    }
}
