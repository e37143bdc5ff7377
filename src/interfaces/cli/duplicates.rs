//! `similiai duplicates`

use std::path::{Path, PathBuf};

use anyhow::Result;
use maud::html;
use rayon::prelude::*;
use serde_json::json;

use super::output::{Kind, Output};
use super::trained::{Trained, judge, thumbnail};
use super::{Session, picture_page};
use crate::base::error::{Failure, UsageErrors};
use crate::base::text::{legible_name, legible_path};
use crate::retrieval::collection::{self, Search};
use crate::retrieval::copies::{COPY, copies};
use crate::retrieval::embeddings::Embeddings;
use crate::retrieval::search::Neighbour;

#[derive(clap::Args)]
#[command(after_help = "\
The command deletes nothing. Each group is a picture and all pictures at a distance of at most D
from it.

Examples:
  similiai duplicates ~/Pictures                      copies within one folder
  similiai duplicates ~/Pictures /media/card          pictures of one folder on the card
  similiai duplicates ~/Pictures --html copies.html   a page that shows the copies")]
pub struct Arguments {
    /// Folder with the pictures to compare; folders inside it are included
    first: PathBuf,
    /// Second folder: compare the pictures of the first with these, not with each other
    second: Option<PathBuf>,
    /// Largest distance between copies
    #[arg(long, value_name = "D", default_value_t = COPY, allow_negative_numbers = true)]
    threshold: f32,
    /// Use the network that made the embeddings of this instance (needed if there are several)
    #[arg(long, value_name = "INSTANCE")]
    of: Option<String>,
    /// Print JSON on stdout
    #[arg(long)]
    json: bool,
    /// Write an HTML page with the pictures to FILE
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Overwrite FILE even if it is another kind of file
    #[arg(long, requires = "html")]
    force: bool,
}

/// Most pictures on a page. The program and the browser hold each of them in memory.
const SHOWN: usize = 300;

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let (page, first, second) = arguments.check(session)?;
    let project = session.last_project()?;
    let trained = Trained::load(&project, arguments.of.as_deref())?;
    let mut all = trained.embed(session, &project, first)?;
    let mut between = None;
    if let Some(second) = second {
        between = Some(all.embeddings.len());
        let others = trained.embed(session, &project, second)?;
        all.embeddings.append(others.embeddings);
        all.bad.extend(others.bad);
        all.skipped.append(others.skipped);
    }
    let paths = std::mem::take(&mut all.embeddings.paths);
    let Embeddings { dimension, values, .. } = all.embeddings;
    let groups = copies(dimension, values, arguments.threshold, between)?;
    if arguments.json {
        let group = |group: &Vec<Neighbour>| -> Vec<_> {
            group.iter().map(|it| json!({"path": paths[it.id], "distance": it.distance})).collect()
        };
        session.print_json(&json!({
            "pictures": paths.len(), "groups": groups.iter().map(group).collect::<Vec<_>>(), "bad": all.bad,
            "passed_over": all.skipped.counted(),
        }))?;
    } else {
        for group in &groups {
            let lines: Vec<String> =
                group.iter().map(|it| format!("{:.4}  {}", it.distance, legible_name(&paths[it.id]))).collect();
            session.screen.print(&(lines.join("\n") + "\n"));
        }
        let copies: usize = groups.iter().map(|group| group.len() - 1).sum();
        session.screen.print(&format!(
            "{} pictures, groups of copies: {}, and copies in them: {copies}",
            paths.len(),
            groups.len()
        ));
    }
    if let Some(page) = page {
        page.write_bytes(show(session, &paths, &groups).as_bytes())?;
        tracing::info!("wrote the page {}", page.path().display());
    }
    judge(&all.bad)
}

impl Arguments {
    /// Checks the arguments. Returns the page to write, and the pictures found in each folder.
    fn check(&self, session: &Session) -> Result<(Option<Output>, Search, Option<Search>)> {
        let mut wrong = UsageErrors::default();
        if self.threshold.is_nan() || self.threshold < 0.0 {
            let why = Failure::Usage(format!("--threshold {} must be 0 or more", self.threshold));
            wrong.note::<()>(Err(why.into()))?;
        }
        let page = self.html.as_ref().map(|path| Output::new(path, Kind::Page, self.force)).transpose();
        let page = wrong.note(page)?.flatten();
        let first = wrong.note(pictures(&self.first))?;
        let second = wrong.note(self.second.as_deref().map(pictures).transpose())?.flatten();
        wrong.note(self.second.as_ref().map_or(Ok(()), |second| apart(&self.first, second)))?;
        if let Some(page) = &page {
            let found = first.iter().chain(&second).flat_map(|search| &search.found);
            wrong.note(page.must_spare(session, found.map(|found| &found.path)))?;
        }
        wrong.tell()?;
        Ok((page, first.unwrap_or_default(), second))
    }
}

/// Finds the pictures in a folder. Fails if there are none.
fn pictures(folder: &Path) -> Result<Search> {
    let search = collection::find(&[folder.to_owned()])?;
    if search.found.is_empty() && search.bad.is_empty() {
        search.skipped.tell();
        let folder = legible_path(folder);
        let why = format!("there is no PNG, JPEG or WebP picture in {folder}, so there is nothing to compare");
        return Err(Failure::Usage(why).into());
    }
    Ok(search)
}

/// Makes a page with the first groups, up to [`SHOWN`] pictures.
fn show(session: &Session, paths: &[String], groups: &[Vec<Neighbour>]) -> String {
    let (mut shown, mut pictures) = (Vec::new(), 0);
    for group in groups {
        if pictures == SHOWN {
            break;
        }
        let first = &group[..group.len().min(SHOWN - pictures)];
        pictures += first.len();
        shown.push((group.len(), first));
    }
    let bar = session.screen.progress("duplicates").bar("pictures of the page", pictures as u64);
    let figure = |it: &Neighbour| {
        bar.inc(1);
        picture_page::figure(
            thumbnail(Path::new(&paths[it.id]), picture_page::SIDE),
            &paths[it.id],
            &[format!("{:.4}", it.distance)],
        )
    };
    let drawn: Vec<Vec<maud::Markup>> = shown.iter().map(|(_, group)| group.par_iter().map(figure).collect()).collect();
    let all: usize = groups.iter().map(Vec::len).sum();
    let body = html! {
        @if pictures < all {
            p { "The page shows the first " (pictures) " pictures of " (all) ", in " (shown.len()) " of " (groups.len())
                " groups. Without --html, the command lists all groups." }
        }
        @for ((count, _), figures) in shown.iter().zip(&drawn) {
            h2 { (count) " pictures" @if figures.len() < *count { ", of which " (figures.len()) " are shown" } }
            div.row { @for figure in figures { (figure) } }
        }
    };
    picture_page::page("Copies", "Below each picture is its distance from the first picture of its group.", body)
}

/// Fails if one folder contains the other, because some pictures would be found twice.
fn apart(one: &Path, other: &Path) -> Result<()> {
    let (Ok(a), Ok(b)) = (one.canonicalize(), other.canonicalize()) else { return Ok(()) };
    if a.starts_with(&b) || b.starts_with(&a) {
        let (one, other) = (one.display(), other.display());
        return Err(Failure::Usage(format!("one of {one} and {other} lies within the other; give just one")).into());
    }
    Ok(())
}
