//! Vectors in PostgreSQL with pgvector: written in one transaction, and searched in the database.

mod address;

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use pgvector::Vector;
use postgres::binary_copy::BinaryCopyInWriter;
use postgres::types::{ToSql, Type};
use postgres::{Client, Row};
use serde::{Deserialize, Serialize};

pub use address::Address;
use address::{said, see_vectors};

use crate::base::error::Failure;
use crate::base::progress::Progress;
use crate::base::signal;
use crate::damaged;
use crate::retrieval::embeddings::Embeddings;
use crate::retrieval::search::{Neighbour, Query, distance};
use crate::retrieval::searcher::{SearchOptions, Vectors};

/// Time limit for a search.
const SEARCH: &str = "60s";
/// Parameters of the index (Malkov and Yashunin 2018): links of a node, and candidates that it looks at when it is
/// built.
const M: usize = 16;
const EF_CONSTRUCTION: usize = 128;
/// Candidates that the index looks at by default.
pub const EF: usize = 64;
/// Largest number of candidates that pgvector's index looks at.
const MOST_CANDIDATES: usize = 1000;
/// Neighbours that are fetched in addition to those asked for. The server rounds sums differently, so the last
/// neighbours may change places.
const BEYOND: usize = 16;
/// How long to wait for clients that read the old table. Clients that come later wait until the new table is there.
const PATIENCE: &str = "10s";
/// Number of rows between two updates of the progress bar.
const ROWS: usize = 1000;

/// JSON in the comment of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// BLAKE3 digest of the file of embeddings.
    #[serde(rename = "similiai.gallery")]
    pub gallery: String,
    dimension: usize,
    facts: BTreeMap<String, String>,
}

/// The result of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Published {
    Written,
    /// The table already has this gallery.
    Current,
}

/// The comment of a table: there is no table, the comment is something else, or it is ours.
enum Comment {
    NoTable,
    Foreign,
    /// Also has the oid of the table. Another table of the same name has another oid.
    Ours(About, u32),
}

impl Comment {
    fn of(row: &Row) -> Self {
        let Some(table) = row.get::<_, Option<u32>>(0) else { return Self::NoTable };
        let about = row.get::<_, Option<String>>(1).and_then(|text| serde_json::from_str(&text).ok());
        about.map_or(Self::Foreign, |about| Self::Ours(about, table))
    }
}

/// The query for the row that [`Comment::of`] reads.
const COMMENT: &str = "SELECT to_regclass($1)::oid, obj_description(to_regclass($1), 'pg_class')";

/// Replaces what the table holds with these embeddings, whose file has the digest `gallery`. Until the new table is
/// complete, other clients see the old one.
///
/// # Errors
/// If the server cannot be reached or refuses. The table then stays as it was.
pub fn publish(mut address: Address, embeddings: &Embeddings, gallery: &str, progress: &Progress) -> Result<Published> {
    let mut client = address.connect()?;
    let told = |error: postgres::Error| anyhow!("{address}: {}", said(&error));
    let mut work = client.transaction().map_err(told)?;
    // If two machines publish at the same time, one waits for the other.
    let (name, new) = (address.quoted(&address.table), format!("{}_being_published", address.table));
    work.query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", &[&format!("similiai {name}")])
        .map_err(told)?;
    match Comment::of(&work.query_one(COMMENT, &[&name]).map_err(told)?) {
        Comment::Ours(about, _) if about.gallery == gallery => return Ok(Published::Current),
        Comment::Foreign => {
            let why = format!("{address} is not from `similiai publish`; choose another --table, or drop it");
            return Err(Failure::Usage(why).into());
        }
        _ => {}
    }
    work.batch_execute("CREATE EXTENSION IF NOT EXISTS vector").map_err(|error| {
        anyhow!("{address} has no pgvector: {}; ask an administrator to run CREATE EXTENSION vector", said(&error))
    })?;
    see_vectors(&mut work).map_err(told)?;
    let (quoted, dimension) = (address.quoted(&new), embeddings.dimension);
    let create = format!(
        "SET LOCAL standard_conforming_strings = on;
         CREATE TABLE {quoted} (id integer NOT NULL, path text NOT NULL, label integer NOT NULL, label_name text NOT NULL,
         split text NOT NULL, embedding vector({dimension}) NOT NULL)"
    );
    work.batch_execute(&create).map_err(told)?;
    let vector = work.query_one("SELECT 'vector'::regtype::oid", &[]).map_err(told)?.get::<_, u32>(0);
    let vector = Type::new("vector".to_owned(), vector, postgres::types::Kind::Simple, "public".to_owned());
    let types = [Type::INT4, Type::TEXT, Type::INT4, Type::TEXT, Type::TEXT, vector];
    let bar = progress.bar("rows", embeddings.len() as u64);
    let copy = work.copy_in(&format!("COPY {quoted} FROM STDIN (FORMAT binary)")).map_err(told)?;
    let mut copy = BinaryCopyInWriter::new(copy, &types);
    for id in 0..embeddings.len() {
        let Embeddings { paths, labels, label_names, splits, .. } = embeddings;
        let vector = Vector::from(embeddings.row(id).to_vec());
        let row: [&(dyn ToSql + Sync); 6] =
            [&(id as i32), &paths[id], &labels[id], &label_names[id], &splits[id], &vector];
        copy.write(&row).map_err(told)?;
        if (id + 1) % ROWS == 0 {
            signal::check()?;
            bar.inc(ROWS as u64);
        }
    }
    copy.finish().map_err(told)?;
    tracing::info!("wrote {} rows; building their index", embeddings.len());
    let about = About { gallery: gallery.to_owned(), dimension, facts: embeddings.facts.clone() };
    let about = serde_json::to_string(&about)?.replace('\'', "''");
    let table = &address.table;
    let index = format!(
        "ALTER TABLE {quoted} ADD CONSTRAINT \"{new}_pkey\" PRIMARY KEY (id);
         CREATE INDEX \"{new}_hnsw\" ON {quoted} USING hnsw (embedding vector_l2_ops) WITH (m = {M}, ef_construction = {EF_CONSTRUCTION});
         COMMENT ON TABLE {quoted} IS '{about}';
         SET LOCAL lock_timeout = '{PATIENCE}';
         DROP TABLE IF EXISTS {name};
         ALTER TABLE {quoted} RENAME TO \"{table}\";
         ALTER INDEX {} RENAME TO \"{table}_pkey\";
         ALTER INDEX {} RENAME TO \"{table}_hnsw\"",
        address.quoted(&format!("{new}_pkey")),
        address.quoted(&format!("{new}_hnsw")),
    );
    work.batch_execute(&index).map_err(told)?;
    signal::check()?;
    work.commit().map_err(told)?;
    // Statistics for the query planner. The table is complete without them.
    if let Err(error) = client.batch_execute(&format!("ANALYZE {name}")) {
        tracing::warn!("cannot update the statistics of {address} for the query planner: {}", said(&error));
    }
    Ok(Published::Written)
}

/// A published table that can be searched.
pub struct Table {
    address: Address,
    pub about: About,
    /// The oid of the table.
    table: u32,
    /// Number of candidates that the index looks at. Without it, every row is compared.
    ef: Option<usize>,
    /// `None` after the connection is lost.
    client: Mutex<Option<Client>>,
}

impl Drop for Table {
    /// Drops the client on its own thread: it waits until its connection ends, and a thread of a server must not wait.
    fn drop(&mut self) {
        let client = self.client.get_mut().take();
        std::thread::spawn(move || drop(client));
    }
}

impl Table {
    /// Opens a published table.
    ///
    /// # Errors
    /// If the table cannot be reached, or is not from `similiai publish`.
    pub fn open(mut address: Address, ef: Option<usize>) -> Result<Self> {
        let mut client = connect(&mut address, ef)?;
        let row = client.query_one(COMMENT, &[&address.quoted(&address.table)]);
        let (about, table) = match Comment::of(&row.map_err(|error| anyhow!("{address}: {}", said(&error)))?) {
            Comment::Ours(about, table) => (about, table),
            Comment::NoTable => {
                return Err(Failure::Usage(format!("there is no {address}; run `similiai publish` to make it")).into());
            }
            Comment::Foreign => return Err(Failure::Usage(format!("{address} is not from `similiai publish`")).into()),
        };
        Ok(Self { address, about, table, ef, client: Mutex::new(Some(client)) })
    }

    /// Returns all columns except the vectors, by id.
    ///
    /// # Errors
    /// If the table is of another model than the one with the digest `model`, or the ids have gaps.
    pub fn rows(&self, model: &str) -> Result<Embeddings> {
        let About { dimension, facts, .. } = self.about.clone();
        let mut all = Embeddings { dimension, facts, ..Embeddings::default() };
        all.must_be_of(model, &self.address.to_string(), "run `similiai publish` again")?;
        let sql = format!("SELECT tableoid, id, path, label, label_name, split FROM {} ORDER BY id", self.name());
        for (place, row) in self.query(&sql, &[])?.into_iter().enumerate() {
            if row.get::<_, i32>(1) != place as i32 {
                return Err(damaged!("{} has no row {place}; run `similiai publish` again", self.address));
            }
            all.paths.push(row.get(2));
            all.labels.push(row.get(3));
            all.label_names.push(row.get(4));
            all.splits.push(row.get(5));
        }
        Ok(all)
    }

    /// A text that changes whenever another gallery is published.
    pub fn version(&self) -> Result<String> {
        let rows = self.ask(COMMENT, &[&self.name()])?;
        match rows.first().map(Comment::of) {
            Some(Comment::Ours(about, table)) => Ok(format!("{} {table}", about.gallery)),
            _ => Err(anyhow!("{} no longer exists", self.address)),
        }
    }

    fn name(&self) -> String {
        self.address.quoted(&self.address.table)
    }

    /// Runs a query. Each row must begin with its `tableoid`. Fails if a row is not of the table that was opened.
    fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let rows = self.ask(sql, parameters)?;
        if rows.iter().any(|row| row.get::<_, u32>(0) != self.table) {
            return Err(damaged!("{} was replaced during the search; search again", self.address));
        }
        Ok(rows)
    }

    /// Runs a query. If the connection was lost, it connects again and repeats the query once.
    fn ask(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let mut held = self.client.lock();
        let mut client = match held.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => connect(&mut self.address.clone(), self.ef)?,
        };
        let mut answer = client.query(sql, parameters);
        if answer.is_err() && client.is_closed() {
            client = connect(&mut self.address.clone(), self.ef)?;
            answer = client.query(sql, parameters);
        }
        *held = Some(client);
        answer.map_err(|error| anyhow!("{}: {}", self.address, said(&error)))
    }
}

impl Vectors for Table {
    fn of(&self, ids: &[usize]) -> Result<Vec<Cow<'_, [f32]>>> {
        let asked: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        let sql = format!("SELECT tableoid, id, embedding FROM {} WHERE id = ANY($1)", self.name());
        let rows = self.query(&sql, &[&asked])?;
        let found: BTreeMap<i32, Vec<f32>> =
            rows.iter().map(|row| (row.get(1), row.get::<_, Vector>(2).to_vec())).collect();
        let row = |id: &i32| {
            found.get(id).cloned().map(Cow::Owned).ok_or_else(|| damaged!("{} has no row {id} any more", self.address))
        };
        asked.iter().map(row).collect()
    }

    /// Measures distances here, and sorts by them. Of equal distances, the smaller id comes first.
    fn nearest(&self, query: &Query, options: &SearchOptions) -> Result<Vec<Neighbour>> {
        let (vector, without) = (Vector::from(query.vector.to_vec()), query.without.map_or(-1, |id| id as i32));
        let limit = (query.most + BEYOND) as i64;
        let among: Option<Vec<i32>> = options.among.map(|ids| ids.iter().map(|id| *id as i32).collect());
        let only = if among.is_some() { "AND id = ANY($4)" } else { "AND $4::int[] IS NULL" };
        let by = if self.ef.is_some() { "" } else { ", id" };
        let sql = format!(
            "SELECT tableoid, id, embedding FROM {} WHERE id <> $2 {only} ORDER BY embedding <-> $1{by} LIMIT $3",
            self.name()
        );
        let near = |row: &Row| Neighbour {
            id: row.get::<_, i32>(1) as usize,
            distance: distance(query.vector, row.get::<_, Vector>(2).as_slice()),
        };
        let rows = self.query(&sql, &[&vector, &without, &limit, &among])?;
        let mut found: Vec<Neighbour> = rows.iter().map(near).collect();
        found.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.id.cmp(&b.id)));
        found.truncate(query.most);
        Ok(found)
    }
}

/// Connects for a search.
fn connect(address: &mut Address, ef: Option<usize>) -> Result<Client> {
    let mut client = address.connect()?;
    let how = match ef {
        // The index returns rows in the order of their distances until there are enough.
        Some(ef) => {
            let ef = ef.clamp(1, MOST_CANDIDATES);
            format!("SET hnsw.ef_search = {ef}; SET hnsw.iterative_scan = strict_order; SET enable_seqscan = off")
        }
        // An index that returns rows in order supports no other kind of scan.
        None => "SET enable_indexscan = off".to_owned(),
    };
    let how = format!("{how}; SET statement_timeout = '{SEARCH}'");
    client.batch_execute(&how).with_context(|| format!("cannot set up {address} for searching"))?;
    Ok(client)
}
