//! `similiai init`

mod pictures;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::{MANIFEST_FILE, Session};
use crate::base::error::Failure;
use crate::base::files;
use crate::base::text::{legible_path, shell_path};
use crate::learning::dataset::Survey;
use pictures::Found;

/// What the stages give to this command: a manifest for each template, and the layout of a folder of pictures.
pub struct Templates {
    /// Learns the sample. `{source}` and `{digest}` stand for its archive.
    pub sample: &'static str,
    /// Learns the user's classes. `{source}` stands for their folder, and `{method}` for the method of the split.
    pub classes: &'static str,
    pub archive: Archive,
    /// Finds the pictures of each class below a folder.
    pub survey: fn(&Path) -> Result<Survey>,
}

/// The archive with the pictures of the sample.
pub struct Archive {
    /// Its path in the project, or its address.
    pub source: &'static str,
    /// The parameter that verifies it.
    pub digest: &'static str,
    /// Its bytes, if the program carries them.
    pub bytes: Option<&'static [u8]>,
}

const GITIGNORE: &str = ".gitignore";
/// Where a project without pictures expects them.
const PICTURES: &str = "pictures";
const IGNORED: &str = "/artifacts/\n/reports/\n";

#[derive(clap::Args)]
#[command(after_help = "\
Templates:
  sample   learn 2,000 pictures of ten kinds of things, which come with the program
  photos   learn the same, then search your own pictures, which need no classes
  classes  learn your own classes: one folder for each class, with its pictures

Without --template, the pictures decide: `classes` if there are two folders with six pictures or more,
otherwise `photos`; and `sample` without --pictures. Nothing is ever overwritten.

Examples:
  similiai init demo && cd demo && similiai run all   the shortest way to a first report
  similiai init mine --pictures ~/Pictures            a project for your own pictures")]
pub struct Arguments {
    /// Folder of the new project; it is made if it does not exist
    #[arg(value_name = "DIR", default_value = ".")]
    project: PathBuf,
    /// What the project is for
    #[arg(long)]
    template: Option<Template>,
    /// Your own pictures
    #[arg(long, value_name = "FOLDER")]
    pictures: Option<PathBuf>,
    /// Print JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Template {
    Sample,
    Photos,
    Classes,
}

/// A file of the new project.
struct New {
    name: &'static str,
    bytes: Vec<u8>,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let Arguments { project: folder, template, pictures, json } = arguments;
    let manifest = folder.join(MANIFEST_FILE);
    if manifest.symlink_metadata().is_ok() {
        let why = format!("{} exists already; choose another folder: `similiai init DIR`", legible_path(&manifest));
        return Err(Failure::Usage(why).into());
    }
    if let (Some(Template::Sample), Some(_)) = (template, pictures) {
        let why = "the template `sample` uses no pictures of yours; use `photos` or `classes`, or leave out --pictures";
        return Err(Failure::Usage(why.to_owned()).into());
    }
    let found = pictures.as_ref().map(|folder| Found::look(session, folder)).transpose()?;
    let template = match (template, &found) {
        (Some(template), _) => *template,
        (None, None) => Template::Sample,
        (None, Some(found)) if found.has_classes() => Template::Classes,
        (None, Some(_)) => Template::Photos,
    };
    if let (Template::Classes, Some(found)) = (template, &found) {
        found.must_have_classes()?;
    }
    let files = files_of(session.templates, template, folder, found.as_ref())?;
    let written = write(folder, template, found.is_none(), &files)?;
    let next = next(folder, template, pictures.as_deref());
    if *json {
        let found = found.as_ref().map(Found::to_json);
        return session.print_json(&json!({
            "folder": folder, "template": template, "found": found, "written": written, "next": next,
        }));
    }
    if let Some(found) = &found {
        found.tell(&session.screen, template == Template::Classes);
    }
    session.screen.print(&format!("made {}: {}", legible_path(folder), written.join(", ")));
    session.screen.print("next:");
    next.iter().for_each(|line| session.screen.print(&format!("  {line}")));
    Ok(())
}

fn files_of(templates: &Templates, template: Template, folder: &Path, found: Option<&Found>) -> Result<Vec<New>> {
    let mut files = vec![New { name: GITIGNORE, bytes: IGNORED.into() }];
    let text = match template {
        Template::Classes => {
            let source = match found {
                Some(found) => source(folder, &found.folder)?,
                None => PICTURES.to_owned(),
            };
            let method = if found.is_some_and(|found| found.survey.has_parts) { "official" } else { "stratified" };
            templates.classes.replace("{source}", &yaml(&source)?).replace("{method}", method)
        }
        Template::Sample | Template::Photos => {
            let Archive { source, digest, bytes } = &templates.archive;
            files.extend(bytes.map(|bytes| New { name: source, bytes: bytes.to_vec() }));
            templates.sample.replace("{source}", source).replace("{digest}", digest)
        }
    };
    // The manifest comes last: without it, the command can be repeated after a failure.
    files.push(New { name: MANIFEST_FILE, bytes: text.into_bytes() });
    Ok(files)
}

/// The path of the pictures in the manifest: relative if they are in the project.
fn source(folder: &Path, pictures: &Path) -> Result<String> {
    let absolute = |path: &Path| std::path::absolute(path).with_context(|| format!("cannot use {}", path.display()));
    let (folder, pictures) = (absolute(folder)?, absolute(pictures)?);
    let source = match pictures.strip_prefix(&folder) {
        Ok(inside) if inside.as_os_str().is_empty() => Path::new("."),
        Ok(inside) => inside,
        Err(_) => &pictures,
    };
    let text = source.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::Usage(format!("{}: its name is not valid Unicode", legible_path(source))).into())
}

/// Text as a value in YAML, with quotes if it needs them.
fn yaml(text: &str) -> Result<String> {
    Ok(serde_yaml::to_string(text)?.trim_end().to_owned())
}

/// Writes the files that do not exist yet. Returns the names of what was made.
fn write(folder: &Path, template: Template, no_pictures: bool, files: &[New]) -> Result<Vec<String>> {
    let mut written = Vec::new();
    let own = [(PICTURES, template == Template::Classes && no_pictures)];
    let folders = own.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name);
    for name in ["artifacts", "reports"].into_iter().chain(folders) {
        let path = folder.join(name);
        if !path.is_dir() {
            files::create_folder(&path)?;
            written.push(format!("{name}/"));
        }
    }
    for New { name, bytes } in files {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok() {
            // The user's own `.gitignore` stays, and an earlier try may have left the archive.
            if *name != GITIGNORE && fs::read(&path).ok().as_ref() != Some(bytes) {
                let why = format!("{} exists already, with another content; move it away", legible_path(&path));
                return Err(Failure::Usage(why).into());
            }
            continue;
        }
        files::create_folder(files::folder_of(&path))?;
        files::write_atomically(&path, bytes)?;
        written.push((*name).to_owned());
    }
    Ok(written)
}

/// The commands to type next.
fn next(folder: &Path, template: Template, pictures: Option<&Path>) -> Vec<String> {
    let mut next = Vec::new();
    if folder != Path::new(".") {
        next.push(format!("cd {}", shell_path(folder)));
    }
    let from_project = |path: &Path| shell_path(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    match (template, pictures) {
        (Template::Classes, None) => next.push(format!("put your pictures into {PICTURES}/<class>/<picture>")),
        (Template::Photos, _) => {
            let pictures = pictures.map_or_else(|| "FOLDER".to_owned(), from_project);
            next.push("similiai run all".to_owned());
            next.push(format!("similiai query PICTURE --in {pictures}"));
            next.push(format!("similiai duplicates {pictures}"));
            return next;
        }
        _ => {}
    }
    next.push("similiai run all".to_owned());
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_relative_inside_the_project_only() {
        assert_eq!(source(Path::new("/a/b"), Path::new("/a/b/c")).unwrap(), "c");
        assert_eq!(source(Path::new("/a/b"), Path::new("/a/b")).unwrap(), ".");
        assert_eq!(source(Path::new("/a/b"), Path::new("/a/c")).unwrap(), "/a/c");
    }

    #[test]
    fn a_path_in_the_manifest_is_read_again() {
        for path in ["plain", "with: colon", "# comment", "it's", "\"two\"", "null", "1.0", " space "] {
            let read: std::collections::BTreeMap<String, String> =
                serde_yaml::from_str(&format!("source: {}\n", yaml(path).unwrap())).unwrap();
            assert_eq!(read["source"], path);
        }
    }
}
