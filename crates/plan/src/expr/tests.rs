use std::collections::BTreeMap;
use std::time::Duration;

use hyperscale_model::{SplitMix, WorkflowIndex};
use proptest::prelude::*;

use super::check::{
    Budget, Names, Runtime, SourceNames, Typed, compile_condition, compile_expr, compile_template,
    compile_whole,
};
use super::functions::Ty;
use super::*;
use crate::ir::{CaptureFrom, CaptureIndex, DataIndex, LocalIndex};

struct Page;

impl Answer for Page {
    fn status(&self) -> u16 {
        200
    }
    fn latency(&self) -> Duration {
        Duration::from_millis(120)
    }
    fn first_byte(&self) -> Duration {
        Duration::from_millis(80)
    }
    fn size(&self) -> u64 {
        2_048
    }
    fn body(&self) -> &[u8] {
        br#"{ "id": 7, "name": "Ann", "items": [ { "p": 1 }, { "p": 2 } ] }"#
    }
    fn header(&self, name: &str) -> Option<&str> {
        match name.to_ascii_lowercase().as_str() {
            "content-type" => Some("application/json"),
            "set-cookie" => Some("sid=abc; Path=/"),
            _ => None,
        }
    }
}

struct World {
    random: SplitMix,
    has_answer: bool,
}

impl Scope for World {
    fn variable(&self, var: &Var) -> Result<Value, EvalError> {
        Ok(match var {
            Var::VuId => Value::Int(3),
            Var::VuIteration => Value::Int(0),
            Var::RunId => Value::text("job_1"),
            Var::Datacenter => Value::text("eu"),
            Var::Now => Value::Int(951_782_400_123),
            Var::Secret(0) => Value::text("s3cret"),
            Var::Row(DataIndex(0)) => Value::from_json(&serde_json::json!({ "name": "Ann" })),
            Var::Local(LocalIndex(0)) => Value::Int(41),
            Var::Published(WorkflowIndex(0), _) => Value::text("T"),
            other => return Err(EvalError(format!("{other:?} is not there"))),
        })
    }
    fn answer(&self) -> Option<&dyn Answer> {
        self.has_answer.then_some(&Page as &dyn Answer)
    }
    fn random(&mut self) -> &mut SplitMix {
        &mut self.random
    }
}

/// Compiles with everything in reach that the tests name.
fn with_names<R>(answer: bool, look: impl FnOnce(&Names<'_>) -> R) -> R {
    let vars: BTreeMap<String, Value> = [
        ("base".to_owned(), Value::Int(10)),
        ("list".to_owned(), Value::List(vec![1.into()].into())),
    ]
    .into();
    let env: BTreeMap<String, String> = [("HOST".to_owned(), "h".to_owned())].into();
    let runtime = Runtime {
        secrets: vec!["KEY".to_owned()],
        data: vec![SourceNames {
            name: "users".to_owned(),
            fields: Some(vec!["name".to_owned()]),
            ty: Ty::Text,
        }],
        locals: vec!["count".to_owned()],
        published: [("login".to_owned(), (WorkflowIndex(0), vec!["token".to_owned()]))].into(),
        unreachable: vec!["other".to_owned()],
    };
    let budget = Budget::new();
    look(&Names { vars: &vars, env: &env, runtime: Some(&runtime), answer, budget: &budget })
}

fn world(has_answer: bool) -> World {
    World { random: SplitMix::new(1), has_answer }
}

#[track_caller]
fn value(text: &str) -> Value {
    let expr = match with_names(true, |names| compile_expr(text, names)) {
        Ok(typed) => typed.expr,
        Err(error) => panic!("`{text}` was refused: {error:?}"),
    };
    assert!(
        expr.is_shallow(EXPR_DEPTH_MAX),
        "`{text}` compiled to what would be refused: {expr:?}"
    );
    expr.eval(&mut world(true)).unwrap_or_else(|error| panic!("`{text}`: {error}"))
}

#[track_caller]
fn refusal(text: &str) -> String {
    match with_names(false, |names| compile_expr(text, names)) {
        Ok(typed) => panic!("`{text}` was taken: {typed:?}"),
        Err(error) => {
            assert!(error.at.end <= text.len().max(1), "{error:?} points beyond `{text}`");
            [vec![error.message], error.notes].concat().join("; ")
        }
    }
}

#[track_caller]
fn rendered(text: &str) -> String {
    let template = with_names(false, |names| compile_template(text, names)).unwrap();
    let mut out = String::new();
    template.render(&mut world(false), &mut out).unwrap();
    out
}

#[test]
fn operators_bind_as_in_cel() {
    let rows: &[(&str, Value)] = &[
        ("1 + 2 * 3", 7.into()),
        ("(1 + 2) * 3", 9.into()),
        ("-2 + 5 % 3", 0.into()),
        ("10 - 3 - 2", 5.into()),
        ("7 / 2", 3.into()),
        ("7 / 2.0", 3.5.into()),
        ("true || false && false", true.into()),
        ("1 < 2 == true", true.into()),
        ("!true || true", true.into()),
        ("false ? 1 : true ? 2 : 3", 2.into()),
        ("\"a\" + 'b' + \"\\u00e9\"", "abé".into()),
        ("3 in [1, 2, 3]", true.into()),
        ("\"k\" in { k: 1 }", true.into()),
        ("5 in 1..4", false.into()),
        ("[10, 20][1]", 20.into()),
        ("{ \"a\": { b: 5 } }.a[\"b\"]", 5.into()),
        ("1 == 1.0", true.into()),
        ("1s + 500ms == 1500ms", true.into()),
        ("1KiB > 1000B", true.into()),
        ("vars.base * 2", 20.into()),
    ];
    for (text, wanted) in rows {
        assert_eq!(value(text), *wanted, "{text}");
    }
}

#[test]
fn names_find_their_values() {
    let rows: &[(&str, Value)] = &[
        ("vu.id", 3.into()),
        ("run.id", "job_1".into()),
        ("env.HOST + datacenter", "heu".into()),
        ("users.name.upper()", "ANN".into()),
        ("count + 1", 42.into()),
        ("login.token", "T".into()),
        ("secrets.KEY", "s3cret".into()),
    ];
    for (text, wanted) in rows {
        assert_eq!(value(text), *wanted, "{text}");
    }
}

#[test]
fn checks_look_at_the_answer() {
    let rows = [
        "status == 200",
        "status in 200..299",
        "status in [200, 204]",
        "latency < 500ms && first_byte < latency",
        "size > 1KiB",
        "header(\"Content-Type\").startsWith(\"application/json\")",
        "header(\"x-none\") == null",
        "!header(\"x-none\").contains(\"a\")",
        "body.contains(\"Ann\")",
        "body.matches(\"\\\"id\\\": [0-9]+\")",
        "json(\"$.items\").size() == 2",
        "json(\"$.items[*].p\") == [1, 2]",
        "json(\"$.none\") == null",
        "json(\"$.id\") == 7",
        "size(body) == 63",
    ];
    for text in rows {
        let condition = with_names(true, |names| compile_condition(text, names))
            .unwrap_or_else(|error| panic!("{text}: {error:?}"));
        assert_eq!(condition.is_true(&mut world(true)), Ok(true), "{text}");
    }
}

#[test]
fn functions_give_what_the_reference_says() {
    let rows = [
        ("base64(\"user:pass\")", "dXNlcjpwYXNz"),
        (
            "hash(\"sha256\", \"abc\")",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        // RFC 4231, test case 2.
        (
            "hmac(\"sha256\", \"Jefe\", \"what do ya want for nothing?\")",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        ("url_encode(\"a b/ä\")", "a%20b%2F%C3%A4"),
        ("json_encode({ b: [1, null], a: \"q\\\"\" })", r#"{"a":"q\"","b":[1,null]}"#),
        ("time_format(now, \"%FT%T.%LZ\")", "2000-02-29T00:00:00.123Z"),
        ("string(int(\"12\") + 1)", "13"),
        ("string(double(\"1.5\"))", "1.5"),
    ];
    for (text, wanted) in rows {
        assert_eq!(value(text), Value::text(wanted), "{text}");
    }
}

#[test]
fn random_functions_follow_the_seed_and_keep_their_bounds() {
    let text = "[uuid(), random_string(8), random_int(-2, 2), pick([\"a\", \"b\"])]";
    let expr = with_names(false, |names| compile_expr(text, names)).unwrap().expr;
    let run = || {
        let mut world = world(false);
        (0..50).map(|_| expr.eval(&mut world).unwrap()).collect::<Vec<_>>()
    };

    let values = run();

    assert_eq!(values, run(), "the same seed gave other values");
    assert_ne!(values[0], values[1]);
    for value in values {
        let Value::List(parts) = value else { panic!("no list") };
        let [Value::Text(uuid), Value::Text(text), Value::Int(number), Value::Text(pick)] =
            parts.as_slice()
        else {
            panic!("{parts:?}")
        };
        assert!(
            uuid.len() == 36
                && uuid.as_bytes()[14] == b'4'
                && b"89ab".contains(&uuid.as_bytes()[19])
        );
        assert_eq!(text.len(), 8);
        assert!((-2..=2).contains(number) && ["a", "b"].contains(&&**pick));
    }
    assert_eq!(value("random_int(5, 5)"), 5.into());
}

#[test]
fn templates_mix_text_and_holes() {
    assert_eq!(rendered("/u/${users.name}?n=${count + 1}"), "/u/Ann?n=42");
    assert_eq!(rendered("$5 $${x} ${\"}\" + '{'} ${ {a: 1}.a }$"), "$5 ${x} }{ 1$");
    assert_eq!(rendered("plain"), "plain");
    assert_eq!(rendered(""), "");
}

#[test]
fn constants_are_folded_and_holes_keep_their_type() {
    let template = with_names(false, |names| compile_template("a${1 + 1}b${vars.base}", names));
    assert_eq!(template.unwrap().as_literal(), Some("a2b10"));

    let whole = with_names(false, |names| compile_whole("${vars.list}", names)).unwrap();
    assert!(matches!(whole, Some(Typed { ty: Ty::List, .. })));
    assert!(with_names(false, |names| compile_whole("${1} ", names)).unwrap().is_none());
}

#[test]
fn mistakes_are_named_where_they_stand() {
    let rows = [
        ("user.name", "unknown name `user`; did you mean `users`?"),
        ("users.nmae", "`users` has no field `nmae`; did you mean `name`?"),
        ("vars.bse", "did you mean `base`"),
        ("env.PATH", "only variables that are declared under `env` can be read"),
        ("other.token", "add `after: [ other ]`"),
        ("login.tokn", "did you mean `token`"),
        ("vu", "`vu` is no value by itself"),
        ("vu.idd", "did you mean `id`"),
        ("status == 200", "there is no answer"),
        ("header(\"a\")", "there is no answer"),
        ("count = 1", "compare with `==`"),
        ("count & 1", "write `&&` for and"),
        ("true and false", "write `&&`"),
        ("randm_int(1, 2)", "did you mean `random_int`"),
        ("random_int(1)", "takes 2 arguments, not 1"),
        ("random_int(3, 1)", "3 is more than 1"),
        ("random_int(\"a\", 1)", "expected a whole number, found text"),
        ("upper(users.name)", "write it as `users.name.upper()`"),
        ("hash(\"md5\", \"a\")", "`md5` is no known digest"),
        ("time_format(now, \"%Q\")", "`%Q` has no meaning"),
        ("\"a\" + 1", "turn a value into text with `string(x)`"),
        ("1 < \"a\"", "cannot be compared with"),
        ("users.name == 5", "cannot be compared with"),
        ("1 / 0", "division by zero"),
        ("9223372036854775807 + 1", "too large"),
        ("[1][5]", "there is no element"),
        ("\"abc", "never closed"),
        ("\"\\q\"", "is no escape"),
        ("1x", "units are"),
        ("(1", "expected `)`, found the end"),
        ("1 +", "expected a value, found the end"),
        ("", "an expression is missing"),
        ("1 2", "was not expected"),
        ("${count}", "a condition needs no `${…}`"),
        ("\"a\".matches(\"(\")", "no regular expression"),
        ("!count.size()", "expected true or false"),
    ];
    for (text, wanted) in rows {
        let found = refusal(text);
        assert!(found.contains(wanted), "`{text}`: {found}");
    }
}

#[test]
fn figures_with_units_need_units() {
    let refused = |text: &str| {
        let error = with_names(true, |names| compile_condition(text, names)).unwrap_err();
        [vec![error.message], error.notes].concat().join("; ")
    };

    assert!(refused("latency < 500").contains("write `500ms` or `2s`"));
    assert!(refused("size > 10").contains("lacks a unit"));
    assert!(refused("status").contains("a condition must be true or false"));
    assert!(refused("json(\"items\")").contains("a JSONPath begins with `$`"));
    assert!(refused("latency < 1KiB").contains("cannot be compared with"));
}

#[test]
fn hostile_expressions_are_refused() {
    for text in ["(".repeat(10_000), "!".repeat(10_000), "1+".repeat(5_000), "[".repeat(10_000)] {
        refusal(&text);
    }
    assert!(refusal(&format!("{}1", "1+".repeat(40))).contains("nested at most"));
    assert!(refusal(&" ".repeat(20_000)).contains("at most"));
    let path = format!("${}", "[?(@.a".repeat(40));
    let error = with_names(true, |names| compile_expr(&format!("json('{path}')"), names));
    assert!(error.unwrap_err().message.contains("too deep"));
}

#[test]
fn constants_have_a_budget() {
    let vars: BTreeMap<String, Value> =
        [("big".to_owned(), Value::text(&"x".repeat(1 << 20)))].into();
    let env = BTreeMap::new();
    let budget = Budget::new();
    let names = Names { vars: &vars, env: &env, runtime: None, answer: false, budget: &budget };

    let error = compile_template(&"${vars.big}".repeat(100), &names).unwrap_err();

    assert!(error.message.contains("8 MiB"), "{error:?}");
}

#[test]
fn values_that_grow_without_end_are_stopped() {
    let double = Expr::List(vec![Expr::Var(Var::Local(LocalIndex(0))); 2]);
    struct Growing(Value, SplitMix);
    impl Scope for Growing {
        fn variable(&self, _: &Var) -> Result<Value, EvalError> {
            Ok(self.0.clone())
        }
        fn random(&mut self) -> &mut SplitMix {
            &mut self.1
        }
    }
    let mut scope = Growing(Value::Int(1), SplitMix::new(0));

    let error = (0..1_000).find_map(|_| match double.eval(&mut scope) {
        Ok(value) => {
            scope.0 = value;
            None
        }
        Err(error) => Some(error),
    });

    assert!(error.unwrap().0.contains("too large"));
}

#[test]
fn a_condition_that_is_no_truth_value_is_an_error() {
    let expr = with_names(false, |names| compile_condition("count", names)).unwrap();

    let error = expr.is_true(&mut world(false)).unwrap_err();

    assert_eq!(error.0, "a condition must be true or false, not a number");
}

#[test]
fn captures_take_what_they_name() {
    let take = |from: &CaptureFrom, index| {
        CompiledCapture::new(from).unwrap().extract(&Page, index, &mut SplitMix::new(4))
    };
    let prices = CaptureFrom::Json("$.items[*].p".to_owned());

    assert_eq!(take(&prices, CaptureIndex::First), Some(1.into()));
    assert_eq!(take(&prices, CaptureIndex::All), Some(value("[1, 2]")));
    assert!(matches!(take(&prices, CaptureIndex::Random), Some(Value::Int(1 | 2))));
    assert_eq!(take(&CaptureFrom::Json("$.none".to_owned()), CaptureIndex::All), None);
    let regex = CaptureFrom::Regex("\"name\": \"(\\w+)\"".to_owned());
    assert_eq!(take(&regex, CaptureIndex::First), Some("Ann".into()));
    let regex = CaptureFrom::Regex("A\\w+".to_owned());
    assert_eq!(take(&regex, CaptureIndex::First), Some("Ann".into()));
    assert_eq!(
        take(&CaptureFrom::Header("Content-Type".to_owned()), CaptureIndex::First),
        Some("application/json".into())
    );
    assert_eq!(
        take(&CaptureFrom::Cookie("sid".to_owned()), CaptureIndex::First),
        Some("abc".into())
    );
    assert_eq!(take(&CaptureFrom::Cookie("id".to_owned()), CaptureIndex::First), None);
    assert!(take(&CaptureFrom::Body, CaptureIndex::First).is_some());
    assert!(CompiledCapture::new(&CaptureFrom::Regex("(".to_owned())).is_err());
}

proptest! {
    #[test]
    fn no_text_makes_the_compiler_panic(text in ".{0,60}") {
        with_names(true, |names| {
            let _compiled = compile_expr(&text, names).is_ok();
            let _compiled = compile_template(&text, names).is_ok();
            let _compiled = compile_template(&format!("${{{text}"), names).is_ok();
        });
    }

    #[test]
    fn no_words_make_the_compiler_or_the_evaluation_panic(
        words in proptest::collection::vec(
            prop::sample::select(vec![
                "1", "2.5", "\"a\"", "true", "null", "count", "users", ".name", "vars.list", "+", "-",
                "*", "/", "%", "==", "<", "&&", "||", "!", "in", "..", "(", ")", "[", "]", "{", "}",
                ",", ":", "?", "status", "body", "1s", "1KiB", ".size()", "json(\"$..p\")", "int(",
                "random_string(", "pick(", "hash(\"sha256\",", "9223372036854775807", "0",
            ]),
            0..14,
        ),
    ) {
        let text = words.join(" ");
        if let Ok(typed) = with_names(true, |names| compile_expr(&text, names)) {
            let mut world = world(true);
            if let Ok(value) = typed.expr.eval(&mut world) {
                let json = serde_json::to_string(&value).unwrap();
                prop_assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), value);
            }
        }
    }
}
