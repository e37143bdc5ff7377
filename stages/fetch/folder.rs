//! A folder of pictures, one folder a class, as torchvision's `ImageFolder` wants it.

use std::path::Path;

use anyhow::{Context as _, Result};
use similiai::images::{class_name, is_picture};
use similiai::stage::{Context, Inputs};
use similiai::{damaged, files};

/// `<class>/<picture>` of all pictures, sorted; what else lies there is passed over.
fn pictures(source: &Path) -> Result<Vec<String>> {
    let (mut pictures, mut others) = (Vec::new(), 0);
    for class in files::names(source)? {
        let folder = source.join(&class);
        if class.starts_with('.') || !folder.is_dir() {
            others += usize::from(is_picture(&folder));
            continue;
        }
        let (found, rest): (Vec<String>, Vec<String>) =
            files::names(&folder)?.into_iter().partition(|name| is_picture(Path::new(name)) && !name.starts_with('.'));
        others += rest.len();
        if !found.is_empty() {
            class_name(&class, &source.display().to_string())?;
        }
        pictures.extend(found.into_iter().map(|name| format!("{class}/{name}")));
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
    Ok(pictures)
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
