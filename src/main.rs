//! Joins the stages to the command line.

#[path = "../stages/mod.rs"]
mod stages;

fn main() -> std::process::ExitCode {
    similiai::cli::main(stages::KINDS)
}
