//! A folder of pictures, one folder a class, as torchvision's `ImageFolder` wants it.

use std::path::Path;

use anyhow::{Context as _, Result};
use similiai::images::is_picture;
use similiai::stage::{Context, Inputs};
use similiai::{damaged, files};

/// `<class>/<picture>` of all pictures, sorted; what else lies there is passed over.
fn pictures(source: &Path) -> Result<Vec<String>> {
    let (mut pictures, mut others) = (Vec::new(), 0);
    for class in entries(source)? {
        let folder = source.join(&class);
        let Some(class) = class.to_str().filter(|class| !class.starts_with('.') && folder.is_dir()) else {
            others += usize::from(is_picture(&folder));
            continue;
        };
        for name in entries(&folder)? {
            let path = folder.join(&name);
            match name.to_str() {
                Some(name) if is_picture(&path) && !name.starts_with('.') && path.is_file() => {
                    plain(class, name).map_err(|why| damaged!("{}: {why}", source.display()))?;
                    pictures.push(format!("{class}/{name}"));
                }
                _ => others += 1,
            }
        }
    }
    if pictures.is_empty() {
        return Err(damaged!(
            "{}: there is no picture at <class>/<name>.png, .jpg, .jpeg or .webp: each class needs a folder of its own",
            source.display()
        ));
    }
    if others > 0 {
        tracing::warn!("{}: {others} files are no <class>/<picture> and are passed over", source.display());
    }
    pictures.sort();
    Ok(pictures)
}

fn entries(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    let unlisted = || format!("cannot list {}", folder.display());
    let entries = std::fs::read_dir(folder).with_context(unlisted)?;
    entries.map(|entry| Ok(entry.with_context(unlisted)?.file_name())).collect()
}

/// Refuses what cannot be the name of a folder or a file everywhere, or would tear a list apart.
pub fn plain(class: &str, name: &str) -> Result<(), String> {
    let wrong = |part: &&str| part.len() > 255 || part.chars().any(|c| c.is_control() || c == '\\');
    match [class, name].into_iter().find(wrong) {
        Some(part) => {
            Err(format!("{part:?} is no name for a class or a picture: 255 bytes, no control characters or \\"))
        }
        None => Ok(()),
    }
}

/// Of the names and contents of all pictures.
pub fn digest(source: &Path, inputs: &Inputs) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for picture in pictures(source)? {
        let digest = inputs.file_digest(&source.join(&picture))?;
        hasher.update(format!("{picture}\0{digest}\n").as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

pub fn copy(source: &Path, context: &Context) -> Result<()> {
    let pictures = pictures(source)?;
    let bar = context.bar("pictures", pictures.len() as u64);
    for picture in pictures {
        context.go_on()?;
        let (from, to) = (source.join(&picture), context.output.join(&picture));
        to.parent().map_or(Ok(()), files::create_folder)?;
        std::fs::copy(&from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        bar.inc(1);
    }
    Ok(())
}
