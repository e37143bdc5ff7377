//! One thread that embeds and searches: pictures that wait at the same time are embedded together, on all cores.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use image::RgbImage;
use tokio::sync::{mpsc, oneshot};

use super::limits::QUEUE;
use super::map::Place;
use super::problem::Problem;
use super::snapshot::Snapshot;
use super::telemetry::Telemetry;
use crate::retrieval::searcher::{Answer, Asked, SearchOptions};

/// Most pictures that are embedded together. With more, the first ones would wait longer.
const TOGETHER: usize = 4;

pub struct SearchQueue {
    jobs: mpsc::Sender<Job>,
}

pub enum Question {
    /// A picture of the gallery.
    Id(usize),
    /// A prepared picture.
    Picture(RgbImage),
}

/// The options of one query.
#[derive(Clone)]
pub struct Wanted {
    /// Most neighbours to return.
    pub k: usize,
    pub label_name: Option<String>,
    pub split: Option<String>,
}

pub struct Found {
    pub answer: Answer,
    /// Places on the map: first of the query, then of each result.
    pub places: Vec<Option<Place>>,
    pub waited: Duration,
    /// Time to embed all pictures of the batch.
    pub embedding: Duration,
    pub searching: Duration,
}

struct Job {
    snapshot: Arc<Snapshot>,
    question: Question,
    wanted: Wanted,
    since: Instant,
    reply: oneshot::Sender<Result<Found, Problem>>,
}

impl SearchQueue {
    pub fn start(telemetry: Arc<Telemetry>) -> Result<Self> {
        let (jobs, waiting) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("engine".to_owned());
        thread.spawn(move || work(waiting, &telemetry)).context("cannot start a thread")?;
        Ok(Self { jobs })
    }

    pub async fn ask(&self, snapshot: Arc<Snapshot>, question: Question, wanted: Wanted) -> Result<Found, Problem> {
        let (reply, answer) = oneshot::channel();
        let gone = || Problem::internal(&anyhow!("the search gave no answer"));
        let job = Job { snapshot, question, wanted, since: Instant::now(), reply };
        self.jobs.send(job).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Answers queries until the queue is closed.
fn work(mut waiting: mpsc::Receiver<Job>, telemetry: &Telemetry) {
    while let Some(first) = waiting.blocking_recv() {
        let mut jobs = vec![first];
        while jobs.len() < TOGETHER
            && let Ok(job) = waiting.try_recv()
        {
            jobs.push(job);
        }
        // The connections of these queries are closed, so nothing needs their answers.
        jobs.retain(|job| !job.reply.is_closed());
        while let Some(job) = jobs.first() {
            let snapshot = job.snapshot.clone();
            let (same, others) = jobs.into_iter().partition(|job: &Job| Arc::ptr_eq(&job.snapshot, &snapshot));
            jobs = others;
            // If this panics, its queries get an error, and the thread continues with the next ones.
            if catch_unwind(AssertUnwindSafe(|| answer_all(&snapshot, same, telemetry))).is_err() {
                tracing::error!("a search panicked");
            }
        }
    }
}

fn answer_all(snapshot: &Snapshot, mut jobs: Vec<Job>, telemetry: &Telemetry) {
    let start = Instant::now();
    let pictures: Vec<RgbImage> = jobs.iter_mut().filter_map(|job| job.question.take_picture()).collect();
    let together = pictures.len();
    let embedded = if together > 0 { snapshot.model.embed(pictures) } else { Ok(Vec::new()) };
    let embedding = if together > 0 { start.elapsed() } else { Duration::ZERO };
    telemetry.embedded(together, embedding);
    let embedded = match embedded {
        Ok(embedded) => embedded,
        Err(error) => return jobs.into_iter().for_each(|job| job.reply(Err(Problem::internal(&error)))),
    };
    let mut rows = embedded.chunks_exact(snapshot.searcher.embeddings.dimension);
    for job in jobs {
        let searched = Instant::now();
        let id = if let Question::Id(id) = job.question { Some(id) } else { None };
        let vector = match id {
            Some(id) => snapshot.searcher.vector(id),
            None => rows.next().map(Cow::Borrowed).ok_or_else(|| anyhow!("a picture has no embedding")),
        };
        let found = vector.map_err(|error| Problem::internal(&error)).and_then(|vector| {
            let vector = &*vector;
            let answer = search(snapshot, vector, id, &job.wanted)?;
            let searching = searched.elapsed();
            telemetry.searched(searching);
            let (waited, embedding) = (start - job.since, if id.is_some() { Duration::ZERO } else { embedding });
            Ok(Found { places: places(snapshot, vector, id, &answer)?, answer, waited, embedding, searching })
        });
        job.reply(found);
    }
}

fn search(snapshot: &Snapshot, vector: &[f32], id: Option<usize>, wanted: &Wanted) -> Result<Answer, Problem> {
    let Wanted { k, label_name, split } = wanted;
    let among = snapshot.members(label_name.as_deref(), split.as_deref())?;
    let among = (label_name.is_some() || split.is_some()).then_some(among);
    let asked = Asked { name: String::new(), vector, id };
    let mut options = SearchOptions { k: None, distinct: false, graph: None, among };
    options.k = Some(snapshot.searcher.others(&asked, &options).min(*k));
    snapshot.searcher.answer(&asked, &options).map_err(|error| Problem::internal(&error))
}

/// Returns places on the map: first of the query, then of each result.
fn places(
    snapshot: &Snapshot,
    vector: &[f32],
    id: Option<usize>,
    answer: &Answer,
) -> Result<Vec<Option<Place>>, Problem> {
    let Some(map) = &snapshot.map else { return Ok(vec![None; 1 + answer.results.len()]) };
    let ids: Vec<usize> = answer.results.iter().map(|hit| hit.id).collect();
    let rows = snapshot.searcher.vectors(&ids).map_err(|error| Problem::internal(&error))?;
    let results = rows.iter().zip(ids).map(|(row, id)| (&**row, Some(id)));
    let pictures: Vec<_> = std::iter::once((vector, id)).chain(results).collect();
    map.places(&pictures).map_err(|error| Problem::internal(&error))
}

impl Question {
    fn take_picture(&mut self) -> Option<RgbImage> {
        match self {
            Self::Id(_) => None,
            Self::Picture(picture) => Some(std::mem::take(picture)),
        }
    }
}

impl Job {
    fn reply(self, found: Result<Found, Problem>) {
        // The client may have closed the connection.
        drop(self.reply.send(found));
    }
}
