//! `similiai dag`

use anyhow::Result;

use super::{ManifestOptions, Session};
use crate::engine::manifest::{InstanceId, Manifest};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    manifest: ManifestOptions,
    /// Format to print the graph in
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Text,
    Dot,
    Mermaid,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let project = session.project(&arguments.manifest.variation())?;
    session.screen.print(draw(&project.manifest, arguments.format).trim_end());
    Ok(())
}

fn draw(manifest: &Manifest, format: Format) -> String {
    let instances = &manifest.instances;
    let name = |id: InstanceId| instances[id].name.as_str();
    let edges =
        instances.iter().flat_map(|instance| instance.needs.iter().map(|need| (name(*need), instance.name.as_str())));
    match format {
        Format::Text => instances
            .iter()
            .map(|instance| {
                let needs: Vec<&str> = instance.needs.iter().map(|need| name(*need)).collect();
                let after = if needs.is_empty() { String::new() } else { format!(" ← {}", needs.join(", ")) };
                format!("{}{after}\n", instance.name)
            })
            .collect(),
        Format::Dot => {
            let edges: String = edges.map(|(from, to)| format!("  \"{from}\" -> \"{to}\";\n")).collect();
            let nodes: String = instances.iter().map(|instance| format!("  \"{}\";\n", instance.name)).collect();
            format!("digraph pipeline {{\n  rankdir=LR;\n{nodes}{edges}}}\n")
        }
        Format::Mermaid => {
            let nodes: String = instances.iter().map(|instance| format!("  {0}[{0}]\n", instance.name)).collect();
            let edges: String = edges.map(|(from, to)| format!("  {from} --> {to}\n")).collect();
            format!("graph LR\n{nodes}{edges}")
        }
    }
}
