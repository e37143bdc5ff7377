//! `similiai query`

mod draw;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::RgbImage;
use maud::html;
use serde::Serialize;

use super::output::{Kind, Output};
use super::trained::{Trained, judge, must_exist, thumbnail, thumbnail_of};
use super::{Session, picture_page};
use crate::base::error::{Failure, UsageErrors};
use crate::base::files;
use crate::base::signal;
use crate::base::text::{legible_name, legible_path, shell_path};
use crate::damaged;
use crate::engine::cache::ResultFiles;
use crate::engine::pipeline::Project;
use crate::learning::images::{
    Decoded, SkippedCount, SkippedFiles, Wanted, decode_for, is_no_fault_of_it, read_from, read_picture,
};
use crate::retrieval::collection::{self, Search};
#[cfg(feature = "cloud")]
use crate::retrieval::database::Table;
use crate::retrieval::embeddings::{self, Embeddings};
use crate::retrieval::search::Graph;
use crate::retrieval::searcher::{Answer, Asked, SearchOptions, Searcher};

#[derive(clap::Args)]
#[command(after_help = "\
Your pictures are prepared in the same way as the training pictures. Each distance has a match
probability: how likely a neighbour at that distance is of the query's class. It is fitted to
pictures held out of the training. It is too high for training pictures, and unreliable for
pictures unlike the training pictures.

Examples:
  similiai query photo.jpg                     the five nearest of the pipeline's pictures
  similiai query --id 7 -k 10 --json           the ten nearest of picture 7, as JSON
  similiai query photo.jpg --in ~/Pictures     among your own pictures; the second time is fast
  similiai query *.jpg --gallery mine.parquet  in a file that `similiai embed` wrote
  similiai query photo.jpg --gallery postgres://me@db/pictures --approximate --ef 100
                                               in a table of `similiai publish`, by its index")]
pub struct Arguments {
    /// Query pictures: PNG, JPEG or WebP; - for standard input
    #[arg(value_name = "IMAGE", required_unless_present = "ids")]
    images: Vec<PathBuf>,
    /// Query with a picture of the gallery, by its id; can be given several times
    #[arg(long = "id", value_name = "N")]
    ids: Vec<usize>,
    /// Number of neighbours (default: 5, or all if there are fewer)
    #[arg(short, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    k: Option<u32>,
    /// Search the pictures below this folder; can be given several times
    #[arg(long = "in", value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// Search a file made by `similiai embed`, or a table at postgres://… made by `similiai publish`
    #[arg(long, value_name = "FILE|ADDRESS", conflicts_with = "folders")]
    gallery: Option<PathBuf>,
    #[cfg(feature = "cloud")]
    #[command(flatten)]
    table: super::publish::TableName,
    /// Use the embeddings of this instance and their network (needed if there are several)
    #[arg(long, value_name = "INSTANCE")]
    of: Option<String>,
    /// Show copies of a picture (resized or compressed again) as one answer
    #[arg(long)]
    distinct: bool,
    /// Search with an index instead of exactly; name its instance if the pipeline has several
    #[arg(long, value_name = "INSTANCE", num_args = 0..=1, require_equals = true, conflicts_with = "folders")]
    approximate: Option<Option<String>>,
    /// Number of candidates that the index looks at (default: as in the manifest)
    #[arg(long, value_name = "N", requires = "approximate")]
    ef: Option<usize>,
    /// Print JSON on stdout, one line for each query
    #[arg(long)]
    json: bool,
    /// Write an HTML page with the pictures to FILE
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Open the page in the browser (default FILE: reports/query.html)
    #[arg(long)]
    open: bool,
    /// Overwrite FILE even if it is another kind of file
    #[arg(long, requires = "html")]
    force: bool,
}

/// Prefixes of database addresses.
const DATABASES: [&str; 2] = ["postgres://", "postgresql://"];

/// The pictures searched in, and how to search them.
struct Gallery {
    searcher: Searcher,
    graph: Option<Graph>,
    /// The prepared pictures that the paths name, if they are the pipeline's.
    pictures: Option<ResultFiles>,
    bad: Vec<String>,
    skipped: SkippedFiles,
}

/// A query.
struct Question {
    name: String,
    vector: Vec<f32>,
    id: Option<usize>,
    /// A small picture to show beside the answer.
    picture: Option<RgbImage>,
}

/// An answer, as it is printed with `--json`.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    answer: &'a Answer,
    /// Pictures that cannot be read, in the folders searched and among the queries, each with the reason.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    bad: &'a [String],
    /// Files in the folders searched that were skipped.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[serde(rename = "passed_over")]
    skipped: &'a [SkippedCount],
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let (page, search) = arguments.check(session)?;
    let project = session.last_project()?;
    let trained = Trained::load(&project, arguments.of.as_deref())?;
    let mut gallery = Gallery::open(session, arguments, &project, &trained, search)?;
    let answers = gallery.answers(arguments, &trained).inspect_err(|_| {
        // Pictures that cannot be read may be the cause.
        if let Err(bad) = judge(&gallery.bad) {
            tracing::warn!("{bad:#}");
        }
    })?;
    let skipped = gallery.skipped.counted();
    for (answer, picture) in &answers {
        if arguments.json {
            session.print_json(&Row { answer, bad: &gallery.bad, skipped: &skipped })?;
        } else {
            session.screen.print(&gallery.table(answer));
            draw::strip(picture.as_ref(), &answer.results, |hit, side| gallery.thumbnail(hit.id, side));
        }
    }
    if let Some(page) = page {
        page.write_bytes(gallery.page(&answers)?.as_bytes())?;
        tracing::info!("wrote the page {}", page.path().display());
        if arguments.open
            && let Err(error) = opener::open(page.path())
        {
            tracing::warn!("cannot open a browser ({error}); open the page yourself");
        }
    }
    judge(&gallery.bad)
}

impl Arguments {
    /// Checks the arguments. Returns the page to write, and the pictures found in the folders.
    fn check(&self, session: &Session) -> Result<(Option<Output>, Search)> {
        let mut wrong = UsageErrors::default();
        wrong.note(self.check_names())?;
        let shown = self.open.then(|| files::folder_of(&session.manifest).join("reports/query.html"));
        let page = self.html.clone().or(shown).map(|path| Output::new(&path, Kind::Page, self.force)).transpose();
        let page = wrong.note(page)?.flatten();
        let search = wrong
            .note(collection::find(&self.folders).and_then(|search| self.must_hold_pictures(search)))?
            .unwrap_or_default();
        if let Some(page) = &page {
            let found = search.found.iter().map(|found| Path::new(&found.path));
            let named = self.images.iter().chain(&self.gallery).map(PathBuf::as_path);
            wrong.note(page.must_spare(session, found.chain(named)))?;
        }
        wrong.tell()?;
        Ok((page, search))
    }

    /// Refuses folders without any picture.
    fn must_hold_pictures(&self, search: Search) -> Result<Search> {
        if !self.folders.is_empty() && search.found.is_empty() && search.bad.is_empty() {
            search.skipped.tell();
            let folders: Vec<String> = self.folders.iter().map(|folder| legible_path(folder)).collect();
            let why = format!("there is no PNG, JPEG or WebP picture in {}", folders.join(", nor in "));
            return Err(Failure::Usage(why).into());
        }
        Ok(search)
    }

    /// Checks that the named files exist, and that standard input is named at most once.
    fn check_names(&self) -> Result<()> {
        let from_stdin = self.images.iter().filter(|image| is_stdin(image)).count();
        if from_stdin > 1 {
            return Err(Failure::Usage("`-` is standard input, and can be given only once".to_owned()).into());
        }
        let gallery = self.gallery.as_ref().filter(|_| self.database().is_none());
        if gallery.is_some() && self.approximate.is_some() {
            return Err(Failure::Usage("a file has no index; leave out --approximate".to_owned()).into());
        }
        must_exist(self.images.iter().filter(|image| !is_stdin(image)).chain(gallery))?;
        match self.images.first() {
            Some(folder) if self.images.iter().all(|image| image.is_dir()) => {
                Err(Failure::Usage(is_a_folder(folder)).into())
            }
            _ => Ok(()),
        }
    }
}

impl Arguments {
    /// Opens a published table. Also returns the digest of the file that it was published from.
    #[cfg(feature = "cloud")]
    fn published(&self, address: &str, trained: &Trained) -> Result<(Searcher, String)> {
        let ef = self.approximate.as_ref().map(|_| self.ef.unwrap_or(crate::retrieval::database::EF));
        let table = Table::open(self.table.at(address)?, ef)?;
        let digest = table.about.gallery.clone();
        let (rows, calibration) = (table.rows(&trained.model.digest)?, trained.model.calibration.clone());
        Ok((Searcher::with_vectors(rows, Box::new(table), calibration), digest))
    }

    #[cfg(not(feature = "cloud"))]
    fn published(&self, _: &str, _: &Trained) -> Result<(Searcher, String)> {
        Err(Failure::Usage("databases need a build with `cargo build --features cloud`".to_owned()).into())
    }

    /// The address, if the gallery is a database.
    fn database(&self) -> Option<&str> {
        self.gallery.as_ref()?.to_str().filter(|gallery| DATABASES.iter().any(|scheme| gallery.starts_with(scheme)))
    }
}

fn is_a_folder(path: &Path) -> String {
    let path = shell_path(path);
    format!("{path} is a folder; to search its pictures, write `similiai query PICTURE --in {path}`")
}

fn is_stdin(image: &Path) -> bool {
    image == Path::new("-")
}

impl Gallery {
    fn open(
        session: &Session,
        arguments: &Arguments,
        project: &Project,
        trained: &Trained,
        search: Search,
    ) -> Result<Self> {
        let (mut pictures, mut bad, mut graph) = (None, Vec::new(), None);
        let mut skipped = SkippedFiles::default();
        let own = arguments.gallery.is_some() || !arguments.folders.is_empty();
        if let Some(address) = arguments.database() {
            let (searcher, digest) = arguments.published(address, trained)?;
            // If the table was published from the pipeline's embeddings, its paths name the pipeline's pictures.
            let prepared = files::digest(&trained.given.folder.join(embeddings::FILE)).is_ok_and(|own| own == digest);
            let pictures = prepared.then(|| trained.pictures(project)).transpose()?;
            return Ok(Self { searcher, graph: None, pictures, bad, skipped });
        }
        let embeddings = if let Some(path) = &arguments.gallery {
            let embeddings = Embeddings::read_foreign(path)?;
            let name = path.display().to_string();
            embeddings.must_be_of(&trained.model.digest, &name, &format!("run `similiai embed … -o {name}` again"))?;
            embeddings.must_have(trained.model.configuration.dimension, &name)?;
            embeddings
        } else if own {
            let collection = trained.embed(session, project, search)?;
            if collection.embeddings.is_empty() {
                judge(&collection.bad)?;
            }
            (bad, skipped) = (collection.bad, collection.skipped);
            collection.embeddings
        } else {
            pictures = Some(trained.pictures(project)?);
            if let Some(name) = &arguments.approximate {
                graph = Some(trained.graph(project, name.as_deref())?);
            }
            trained.embeddings(project)?
        };
        let searcher = Searcher::new(embeddings, trained.model.calibration.clone())?;
        Ok(Self { searcher, graph, pictures, bad, skipped })
    }

    /// The answer to each question, with the picture to show beside it.
    fn answers(&mut self, arguments: &Arguments, trained: &Trained) -> Result<Vec<(Answer, Option<RgbImage>)>> {
        let questions = self.questions(arguments, trained)?;
        let ef = |graph: &Graph| arguments.ef.unwrap_or(graph.parameters().ef);
        let options = SearchOptions {
            k: arguments.k.map(|k| k as usize),
            distinct: arguments.distinct,
            graph: self.graph.as_ref().map(|graph| (graph, ef(graph))),
            among: None,
        };
        let answer = |question: Question| {
            let asked = Asked { name: question.name.clone(), vector: &question.vector, id: question.id };
            Ok((self.searcher.answer(&asked, &options)?, question.picture))
        };
        questions.into_iter().map(answer).collect()
    }

    /// Embeds all queries. Pictures that cannot be read are added to `bad`.
    fn questions(&mut self, arguments: &Arguments, trained: &Trained) -> Result<Vec<Question>> {
        let mut questions = Vec::new();
        let all = self.searcher.embeddings.len();
        let absent: Vec<String> = arguments.ids.iter().filter(|id| **id >= all).map(usize::to_string).collect();
        if !absent.is_empty() {
            let why = format!("there is no picture {}: ids go from 0 to {}", absent.join(", nor "), all - 1);
            return Err(Failure::Usage(why).into());
        }
        for id in &arguments.ids {
            let picture = self.thumbnail(*id, picture_page::SIDE).ok();
            let vector = self.searcher.vector(*id)?.into_owned();
            questions.push(Question { name: format!("id {id}"), vector, id: Some(*id), picture });
        }
        for path in &arguments.images {
            signal::check()?;
            match self.decoded(path, trained) {
                Ok((name, id, decoded)) => {
                    let vector = trained.model.embed(decoded.prepared.into_iter().chain(decoded.whole).collect())?;
                    questions.push(Question { name, vector, id, picture: decoded.thumbnail });
                }
                Err(error) if is_no_fault_of_it(&error) => return Err(error),
                Err(error) => self.bad.push(format!("{error:#}")),
            }
        }
        Ok(questions)
    }

    /// Reads and decodes a query picture. Returns its name, its id if the gallery has it, and the decoded picture.
    fn decoded(&self, path: &Path, trained: &Trained) -> Result<(String, Option<usize>, Decoded)> {
        let (name, bytes) = if is_stdin(path) {
            ("standard input".to_owned(), read_from(std::io::stdin().lock(), "standard input")?)
        } else if path.is_dir() {
            return Err(damaged!("{}", is_a_folder(path)));
        } else {
            (path.display().to_string(), read_picture(path)?)
        };
        let (id, is_prepared) = self.place(path);
        let preparation = (!is_prepared).then(|| trained.model.configuration.preparation.clone());
        let wanted = Wanted { preparation, thumbnail: Some(picture_page::SIDE), whole: is_prepared };
        let decoded = decode_for(&bytes, &name, &wanted)?;
        Ok((name, id, decoded))
    }

    fn path(&self, id: usize) -> PathBuf {
        let path = Path::new(&self.searcher.embeddings.paths[id]);
        self.pictures.as_ref().map_or(path.to_owned(), |pictures| pictures.folder.join(path))
    }

    /// Makes a small picture to show. Pictures of the pipeline must be the same as when they were embedded.
    fn thumbnail(&self, id: usize, side: u32) -> Result<RgbImage> {
        let path = self.path(id);
        let Some(pictures) = &self.pictures else { return thumbnail(&path, side) };
        let bytes = pictures.read(&self.searcher.embeddings.paths[id]);
        let bytes = bytes.with_context(|| format!("{} has changed since it was prepared", path.display()))?;
        thumbnail_of(&bytes, &path.display().to_string(), side)
    }

    /// Returns the id of this file if the gallery has it, and whether the file is a prepared picture.
    fn place(&self, path: &Path) -> (Option<usize>, bool) {
        let (Ok(path), paths) = (path.canonicalize(), &self.searcher.embeddings.paths) else { return (None, false) };
        if let Some(pictures) = &self.pictures {
            let Ok(folder) = pictures.folder.canonicalize() else { return (None, false) };
            let Ok(below) = path.strip_prefix(&folder) else { return (None, false) };
            return (paths.iter().position(|other| Path::new(other) == below), true);
        }
        let same = |other: &String| {
            let other = Path::new(other);
            other.file_name() == path.file_name() && other.canonicalize().is_ok_and(|other| other == path)
        };
        (paths.iter().position(same), false)
    }

    fn table(&self, answer: &Answer) -> String {
        let mut lines = vec![match answer.results.first() {
            Some(best) if !answer.close => {
                format!(
                    "{}: no close match (match probability of the nearest: {:.0} %)",
                    legible_name(&answer.query),
                    100.0 * best.chance
                )
            }
            Some(_) => legible_name(&answer.query),
            None => format!("{}: there is no other picture in the gallery", legible_name(&answer.query)),
        }];
        let of = |pick: fn(&crate::retrieval::searcher::Hit) -> &str| {
            answer.results.iter().map(|hit| pick(hit).chars().count()).max()
        };
        let (class, split) = (of(|hit| &hit.label_name).unwrap_or(0), of(|hit| &hit.split).unwrap_or(0));
        for hit in &answer.results {
            let copies = match hit.copies.len() {
                0 => String::new(),
                count => format!("  (+{count} copies)"),
            };
            let columns = format!("{:>4}  {:.4}  {:>3.0} %  ", hit.rank, hit.distance, 100.0 * hit.chance);
            let class = if class > 0 { format!("{:class$}  ", legible_name(&hit.label_name)) } else { String::new() };
            let split = if split > 0 { format!("{:split$}  ", legible_name(&hit.split)) } else { String::new() };
            lines.push(format!("{columns}{class}{split}{}{copies}", legible_path(&self.path(hit.id))));
        }
        lines.join("\n")
    }

    fn page(&self, answers: &[(Answer, Option<RgbImage>)]) -> Result<String> {
        let rows = answers.iter().map(|(answer, picture)| -> Result<maud::Markup> {
            let hits = answer.results.iter().map(|hit| -> Result<maud::Markup> {
                let caption = [
                    format!("{:.3} · {:.0} %", hit.distance, 100.0 * hit.chance),
                    format!("{} {}", hit.label_name, hit.split).trim().to_owned(),
                ];
                Ok(picture_page::figure(self.thumbnail(hit.id, picture_page::SIDE), &hit.path, &caption))
            });
            let hits = hits.collect::<Result<Vec<_>>>()?;
            Ok(html! {
                h2 { (answer.query) @if !answer.close { span.soft { " no close match" } } }
                div.row {
                    @if let Some(picture) = picture { (picture_page::shown(picture, "query", &["the query".to_owned()])?) }
                    @for hit in hits { (hit) }
                }
            })
        });
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let about =
            "Below each picture are its distance and its match probability: how likely it is of the query's class.";
        Ok(picture_page::page("Nearest pictures", about, html! { @for row in rows { (row) } }))
    }
}
