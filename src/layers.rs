//! Tests of the layers: they read every import in `src/` and `stages/`, and fail on a forbidden one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use walkdir::WalkDir;

/// From the lowest layer to the highest. Neighbours in one row must not import each other.
const LAYERS: [&[&str]; 5] = [&["base"], &["engine", "learning"], &["retrieval"], &["report"], &["interfaces"]];

/// The names of a path, such as `engine::cache`.
type Module = Vec<String>;

fn module(names: &[&str]) -> Module {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// All modules below `root`, each with the modules that it imports.
fn imports(root: &Path, prefix: &[&str], own: &str) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut all: BTreeMap<Module, String> = BTreeMap::new();
    for entry in WalkDir::new(root).sort_by_file_name() {
        let entry = entry.unwrap();
        let path = entry.path().strip_prefix(root).unwrap().with_extension("");
        if entry.path().extension().is_some_and(|ending| ending == "rs") {
            let names = path.iter().map(|name| name.to_str().unwrap()).filter(|name| *name != "mod" && *name != "lib");
            let text = std::fs::read_to_string(entry.path()).unwrap();
            all.insert(module(prefix).into_iter().chain(names.map(str::to_owned)).collect(), text);
        }
    }
    let known: BTreeSet<Module> = all.keys().cloned().collect();
    let of = |(module, text): (&Module, &String)| {
        let paths = paths(text).into_iter().map(|path| absolute(&path, module, own));
        // The longest prefix of the path that is a module. The rest is an item in it.
        let targets =
            paths.filter_map(|path| (1..=path.len()).rev().map(|n| path[..n].to_vec()).find(|m| known.contains(m)));
        (module.clone(), targets.filter(|target| target != module).collect())
    };
    all.iter().map(of).collect()
}

/// Resolves a path: `super::a` in module `b::c` is `b::a`.
fn absolute(path: &[String], module: &[String], own: &str) -> Module {
    let above = path.iter().take_while(|name| *name == "super").count();
    match path[0].as_str() {
        "super" => module[..module.len().saturating_sub(above)].iter().chain(&path[above..]).cloned().collect(),
        "self" => module.iter().chain(&path[1..]).cloned().collect(),
        first if first == own => path[1..].to_vec(),
        _ => path.to_vec(),
    }
}

/// Every path in `text` that starts at a crate, with `super` or with `self`. Groups in braces become single paths.
/// Comments are skipped.
fn paths(text: &str) -> Vec<Module> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    // The unit tests at the end of a file may import any module.
    let code: String = lines.take_while(|line| !line.ends_with("mod tests {")).collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for start in ["crate::", "similiai::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|before| !before.is_alphanumeric() && before != '_' && before != ':' && before != '$')
            {
                expand(&code[at..], &mut Vec::new(), &mut found);
            }
        }
    }
    found
}

/// Adds the paths at the start of `code` to `found`, and returns the rest of `code`.
fn expand<'a>(code: &'a str, before: &mut Module, found: &mut Vec<Module>) -> &'a str {
    let length = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    let (name, rest) = code.split_at(length);
    before.push(name.to_owned());
    let rest = match rest.strip_prefix("::") {
        Some(rest) if rest.starts_with('{') => {
            let mut rest = &rest[1..];
            while !rest.trim_start().starts_with('}') && !rest.trim().is_empty() {
                rest = expand(rest.trim_start(), before, found).trim_start().trim_start_matches(',');
            }
            rest.trim_start().strip_prefix('}').unwrap_or_default()
        }
        Some(rest) if rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') => expand(rest, before, found),
        _ => {
            found.push(before.clone());
            rest.trim_start_matches(|c| c != ',' && c != '}')
        }
    };
    before.pop();
    rest
}

fn layer(module: &Module) -> usize {
    let found = LAYERS.iter().position(|row| row.contains(&module[0].as_str()));
    found.unwrap_or_else(|| panic!("{} is in no layer", module.join("::")))
}

fn of_library() -> BTreeMap<Module, BTreeSet<Module>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = imports(&root, &[], "crate");
    all.retain(|module, _| !matches!(module.first().map(String::as_str), None | Some("main" | "layers" | "templates")));
    all.values_mut().for_each(|targets| targets.retain(|target| !target.is_empty()));
    all
}

/// Prints the graph too: `cargo test --lib layers -- --nocapture`.
#[test]
fn arrows_point_down() {
    let (mut layers, mut modules) = (BTreeSet::new(), BTreeSet::new());
    for (module, targets) in of_library() {
        for target in targets {
            let same = module[0] == target[0];
            let is_down = same || layer(&target) < layer(&module);
            assert!(is_down, "{} must not import {}", module.join("::"), target.join("::"));
            layers.extend((!same).then(|| (module[0].clone(), target[0].clone())));
            let room = |module: &Module| module[..module.len().min(2)].join("::");
            modules.extend((room(&module) != room(&target)).then(|| (room(&module), room(&target))));
        }
    }
    let all = |arrows: &BTreeSet<(String, String)>| -> String {
        arrows.iter().map(|(from, to)| format!("  {from} --> {to}\n")).collect()
    };
    println!("flowchart\n%% {} arrows between layers\n{}", layers.len(), all(&layers));
    println!("%% {} arrows between modules\n{}", modules.len(), all(&modules));
    // If the parser of imports were broken, this would be empty.
    assert!(layers.len() >= 8, "{layers:?}");
}

/// For each folder, the imports between its modules. Imports between their submodules count as well.
fn between_siblings(all: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeMap<Module, BTreeSet<(String, String)>> {
    let mut found: BTreeMap<Module, BTreeSet<(String, String)>> = BTreeMap::new();
    for (module, targets) in all {
        for target in targets {
            let shared = module.iter().zip(target).take_while(|(a, b)| a == b).count();
            if shared < module.len().min(target.len()) {
                let arrow = (module[shared].clone(), target[shared].clone());
                found.entry(module[..shared].to_vec()).or_default().insert(arrow);
            }
        }
    }
    found
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    for (folder, mut arrows) in between_siblings(&of_library()) {
        let all = arrows.len();
        loop {
            let starts: BTreeSet<String> = arrows.iter().map(|(from, _)| from.clone()).collect();
            let before = arrows.len();
            arrows.retain(|(_, to)| starts.contains(to));
            if arrows.len() == before {
                break;
            }
        }
        assert!(arrows.is_empty(), "in `{}`, among {all} arrows: {arrows:?}", folder.join("::"));
    }
}

#[test]
fn no_stage_knows_another() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("stages");
    let all = imports(&root, &["crate", "stages"], "");
    assert!(all.len() > 10);
    for (module, targets) in all.iter().filter(|(module, _)| module.len() > 2) {
        for target in targets.iter().filter(|target| target.len() > 2) {
            assert_eq!(module[2], target[2], "{} must not import {}", module.join("::"), target.join("::"));
        }
    }
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let text = "#[cfg(test)]\nmod tests;\nuse crate::a::{b, c::{D, e as f}};\nuse super::g;\n\
        fn x() -> crate::h::I { $crate::not::this }\n// crate::comment\nmod tests {\nuse crate::test;\n}\n";
    let found: Vec<String> = paths(text).iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["crate::a::b", "crate::a::c::D", "crate::a::c::e", "crate::h::I", "super::g"]);
}
