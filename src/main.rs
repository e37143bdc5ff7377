//! Joins the stages, and the manifests of new projects, to the command line.

#[path = "../stages/mod.rs"]
mod stages;
mod templates;

#[cfg(test)]
#[path = "../fuzz/test.rs"]
mod fuzz;

fn main() -> std::process::ExitCode {
    similiai::interfaces::cli::main(stages::KINDS, &templates::TEMPLATES)
}
