//! Tests of the manifest: every kind of error, with its position.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reader::{Checked, parse as parse_text};
use super::*;
use crate::engine::stage::{Context, Invalid, Stage, kind, require};

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Source {
    rows: usize,
}

impl Default for Source {
    fn default() -> Self {
        Self { rows: 3 }
    }
}

impl Stage for Source {
    const NAME: &'static str = "source";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "rows";
    fn check(&self) -> Result<(), Invalid> {
        require(self.rows > 0, "rows", "must be 1 or more")
    }
    fn run(&self, _: &Context) -> Result<()> {
        Ok(())
    }
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Sum {}

impl Stage for Sum {
    const NAME: &'static str = "sum";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "a sum";
    const NEEDS: &'static [&'static str] = &["source"];
    fn run(&self, _: &Context) -> Result<()> {
        Ok(())
    }
}

static KINDS: [Kind; 2] = [kind::<Source>(), kind::<Sum>()];

fn parse(stages: &str, profile: Option<&str>, sets: &[&str]) -> Checked<Manifest> {
    let text = format!("version: 1\nseed: 7\nstages:\n{stages}");
    let profiles = profile.iter().map(|name| name.to_string()).collect();
    let variation = Variation { profiles, sets: sets.iter().map(|set| set.to_string()).collect() };
    parse_text("p.yaml", &text, PathBuf::from("."), &KINDS, &variation)
}

/// The message, and (line, column, length) of the caret.
fn issue(stages: &str, sets: &[&str]) -> (String, Option<(usize, usize, usize)>) {
    let error = parse(stages, None, sets).err().expect("an error");
    let place = error.span.as_ref().map(|span| (span.line, span.column, span.length));
    (format!("{} {}", error.message, error.help.unwrap_or_default()), place)
}

#[test]
fn all_errors_are_told_together() {
    let told = |stages: &str, sets: &[&str]| {
        let error = parse(stages, None, sets).err().expect("an error").to_string();
        error.lines().filter(|line| !line.starts_with(' ')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        told(GOOD, &["rows", "rwos.rows=1", "rows.rows=0"]),
        [
            "--set rows: `=` is missing",
            "error: there is no stage instance `rwos`",
            "error: parameter `rows` of `rows` must be 1 or more"
        ]
    );
    assert_eq!(
        told("  a: {uses: source, b: 1, c: 2}\n  d: {uses: sorce}\n", &["a.rows=5"]),
        [
            "stage `source` has no parameter `b`",
            "error: stage `source` has no parameter `c`",
            "error: there is no stage `sorce`"
        ]
    );
    let many: String = (0..30).map(|i| format!("  a{i}: {{uses: x}}\n")).collect();
    let many = told(&many, &[]);
    assert_eq!((many.len(), many[10].as_str()), (11, "and 20 more errors"));
}

const GOOD: &str = "  total: {uses: sum, needs: [rows]}\n  rows: {uses: source, rows: 5}\n";

#[test]
fn a_remote_cache_has_an_address_and_a_mode() {
    use crate::engine::cache::{Mode, Settings};
    let with = |cache: &str| {
        let text = format!("version: 1\ncache: {cache}\nstages:\n  source: {{uses: source}}\n");
        parse_text("pipeline.yaml", &text, PathBuf::from("."), &KINDS, &Variation::default())
    };
    let cache = with("{remote: s3://bucket/ci}").unwrap().cache;
    assert_eq!(cache, Some(Settings { remote: "s3://bucket/ci".into(), mode: Mode::ReadOnly }));
    assert_eq!(with("{remote: ../shared, mode: read-write}").unwrap().cache.unwrap().mode, Mode::ReadWrite);
    for wrong in ["{}", "s3://bucket", "{remote: x, mode: write}", "{remote: x, secret: y}"] {
        let message = with(wrong).err().unwrap().to_string();
        assert!(message.contains("`cache` is not valid") && message.contains("mode: read-only"), "{message}");
    }
}

#[test]
fn orders_by_needs() {
    let manifest = parse(GOOD, None, &[]).expect("a manifest");
    let names: Vec<&str> = manifest.instances.iter().map(|instance| instance.name.as_str()).collect();
    assert_eq!(names, ["rows", "total"]);
    let ids: Vec<InstanceId> = manifest.instances.ids().collect();
    assert_eq!(manifest.instances[ids[1]].needs, [ids[0]]);
    assert_eq!(manifest.seed, 7);
}

#[test]
fn profiles_and_sets_overlay() {
    let text = format!("{GOOD}profiles:\n  small: {{seed: 8, rows: {{rows: 1}}}}\n");
    let rows = |manifest: &Manifest| {
        manifest.instances.iter().next().unwrap().stage.keyed_parameters().unwrap()["rows"].as_u64()
    };
    let small = parse(&text, Some("small"), &[]).expect("a manifest");
    assert_eq!((rows(&small), small.seed), (Some(1), 8));
    let set = parse(&text, Some("small"), &["rows.rows=9", "seed=10"]).expect("a manifest");
    assert_eq!((rows(&set), set.seed), (Some(9), 10));
    let error = parse(&text, Some("smal"), &[]).err().expect("an error");
    assert_eq!(error.help.as_deref(), Some("did you mean `small`?"));
}

#[test]
fn each_error_has_its_place() {
    let cases = [
        ("  rows: {uses: sorce}\n", "there is no stage `sorce` did you mean `source`?", (4, 16, 5)),
        ("  rows: {uses: source, row: 5}\n", "stage `source` has no parameter `row` did you mean `rows`?", (4, 24, 3)),
        (
            "  rows: {uses: source, rows: many}\n",
            "parameter `rows` of `rows`: invalid type: string \"many\"",
            (4, 30, 4),
        ),
        ("  rows: {uses: source, rows: 0}\n", "parameter `rows` of `rows` must be 1 or more", (4, 30, 1)),
        ("  rows: {rows: 1}\n", "does not say which stage it `uses`", (4, 3, 4)),
        (
            "  total: {uses: sum, needs: [rwos]}\n  rows: {uses: source}\n",
            "which is not in `stages` did you mean `rows`?",
            (4, 30, 4),
        ),
        ("  total: {uses: sum, needs: []}\n  rows: {uses: source}\n", "add to its `needs`: rows", (4, 29, 1)),
        ("  a: {uses: source, needs: [b]}\n  b: {uses: source, needs: [a]}\n", "a cycle: a → b → a", (4, 28, 1)),
        (
            "  a: {uses: source}\n  b: {uses: source, out: artifacts/a}\n",
            "would both write to artifacts/a",
            (5, 26, 11),
        ),
        (
            "  a: {uses: source}\n  b: {uses: source, out: ./artifacts/a/b}\n",
            "would both write to artifacts/a/b",
            (5, 26, 15),
        ),
        ("  a: {uses: source, out: ../a}\n", "must be a folder below the project", (4, 26, 4)),
        ("  a: {uses: source, out: artifacts}\n", "must be a folder below the project", (4, 26, 9)),
        ("  a: {uses: source\n", "this is not valid YAML", (5, 1, 1)),
    ];
    for (stages, message, place) in cases {
        let (found, at) = issue(stages, &[]);
        assert!(found.contains(message), "{stages}: {found}");
        assert_eq!(at, Some(place), "{stages}: {found}");
    }
}

#[test]
fn a_set_is_shown_with_a_caret() {
    let (found, at) = issue(GOOD, &["rows.row=5"]);
    assert!(found.contains("has no parameter `row`"), "{found}");
    assert_eq!(at, Some((0, 1, 8)));
    let (_, at) = issue(GOOD, &["rows.rows=x"]);
    assert_eq!(at, Some((0, 11, 1)));
}

#[test]
fn shows_the_line_and_a_caret() {
    let error = parse("  rows: {uses: source, row: 5}\n", None, &[]).err().expect("an error");
    let expected = "stage `source` has no parameter `row`\n  --> p.yaml:4:24\n   |\n 4 |   rows: {uses: source, row: 5}\n   |                        ^^^\n = help: did you mean `rows`?";
    assert_eq!(error.to_string(), expected);
}
