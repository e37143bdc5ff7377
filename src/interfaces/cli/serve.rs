//! `similiai serve`

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use anyhow::Result;

use super::Session;
use super::trained::Trained;
use crate::base::error::{Failure, UsageErrors};
use crate::base::files;
use crate::damaged;
use crate::engine::cache::Store;
use crate::engine::manifest::InstanceId;
use crate::engine::pipeline::Project;
use crate::interfaces::serve::{Access, Limits, Options, Snapshot, Source, Token, serve};
use crate::learning::model;
use crate::report::html;
use crate::report::results;
use crate::retrieval::artifacts;
#[cfg(feature = "cloud")]
use crate::retrieval::database::{Address, Table};
use crate::retrieval::embeddings;
use crate::retrieval::searcher::Searcher;

/// Fewest characters of a token. A shorter token can be guessed.
const SHORTEST: usize = 16;

/// First parts of the server's own paths. The base path must not start with one of them: the server would remove it
/// from a path that belongs to itself.
const OWN: [&str; 4] = ["api", "report", "metrics", "healthz"];

#[derive(clap::Args)]
#[command(after_help = "\
The page shows pictures that look like yours: choose, drop, paste or photograph one. Programs use
/api/search, which /api/openapi.json describes. /metrics is for Prometheus, and /healthz is for
health checks. You can start the server before training. New results appear without a restart. The
server keeps no uploaded picture.

Examples:
  similiai serve --open                                    at http://127.0.0.1:8501
  curl -F image=@photo.jpg 'http://127.0.0.1:8501/api/search?k=3'
  SIMILIAI_TOKEN=… similiai serve --host 0.0.0.0           for others, who need the token
                                                           (best behind a proxy with HTTPS)
  similiai serve --gallery postgres://me@db/pictures       from a database (feature cloud)

SIGINT or SIGTERM stops the server after it has answered current requests. The exit status is 130
or 143.")]
pub struct Arguments {
    /// Name or address to listen on; one that others can reach needs --token or --insecure
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on, or 0 for any free port; the address is printed on stdout
    #[arg(long, default_value_t = 8501)]
    port: u16,
    /// Open the page in the browser
    #[arg(long)]
    open: bool,
    /// Secret of at least 16 characters that clients must send
    #[arg(long, value_name = "TOKEN", env = "SIMILIAI_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Answer everyone who can reach this server, without a token
    #[arg(long, conflicts_with = "token")]
    insecure: bool,
    /// Also answer requests for this host name, such as a proxy's; can be given several times
    #[arg(long = "allow-host", value_name = "NAME")]
    names: Vec<String>,
    /// Path below which a proxy passes requests on to this server, such as /pictures
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    base_path: String,
    /// Use the embeddings of this instance and their network (needed if there are several)
    #[arg(long, value_name = "INSTANCE")]
    of: Option<String>,
    /// Search a table at postgres://… made by `similiai publish`, with the network of this pipeline
    #[cfg(feature = "cloud")]
    #[arg(long, value_name = "ADDRESS")]
    gallery: Option<String>,
    #[cfg(feature = "cloud")]
    #[command(flatten)]
    table: super::publish::TableName,
    /// Search with the table's index instead of exactly, looking at N candidates
    #[cfg(feature = "cloud")]
    #[arg(long, value_name = "N", requires = "gallery")]
    ef: Option<usize>,
    /// Largest upload, up to 1GiB
    #[arg(long, value_name = "SIZE", default_value = "20MB")]
    max_upload: bytesize::ByteSize,
    /// Largest picture, in millions of pixels; decoding needs up to 9 bytes of memory for each pixel
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=120))]
    max_megapixels: u64,
}

/// Executes the program again, with settings of malloc that return the memory of a large picture to the system. glibc
/// reads these settings from the environment, and only when a program starts.
pub fn reexecute_with_malloc_settings() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::os::unix::process::CommandExt;
        const HOW: [(&str, &str); 3] =
            [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "1000000"), ("MALLOC_TRIM_THRESHOLD_", "1000000")];
        if HOW.iter().any(|(name, _)| std::env::var_os(name).is_none())
            && let Ok(program) = std::env::current_exe()
        {
            let missing = HOW.into_iter().filter(|(name, _)| std::env::var_os(name).is_none());
            // `exec` returns only if it fails. Then the server runs without these settings.
            drop(std::process::Command::new(program).args(std::env::args_os().skip(1)).envs(missing).exec());
        }
    }
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let address = arguments.address()?;
    let mut wrong = UsageErrors::default();
    let access = arguments.access(address.ip(), &mut wrong);
    let limits = wrong.note(arguments.limits())?;
    wrong.tell()?;
    let Some(limits) = limits else { return Ok(()) };
    let project = session.last_project()?;
    // The server can wait for results that are not made yet, but not for results that the manifest cannot give.
    if let Err(error) = Trained::given(&project, arguments.of.as_deref())
        && !matches!(error.downcast_ref(), Some(Failure::NotYet(_)))
    {
        return Err(error);
    }
    let source = Pipeline {
        session,
        of: arguments.of.as_deref(),
        store: project.store,
        #[cfg(feature = "cloud")]
        published: arguments.published()?,
    };
    let (token, base) = (access.token.is_some(), access.base.clone());
    serve(&source, Options { address, access, limits }, |address| {
        let address = format!("http://{address}{base}/");
        session.screen.print(&address);
        tracing::info!("serving at {address}{}; Ctrl-C stops it", if token { " (needs the token)" } else { "" });
        if arguments.open
            && let Err(error) = arguments.show(&address)
        {
            tracing::warn!("cannot open a browser ({error:#}); open the page yourself");
        }
    })
}

impl Arguments {
    fn address(&self) -> Result<SocketAddr> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let found = (host, self.port).to_socket_addrs().ok().and_then(|mut found| found.next());
        found.ok_or_else(|| Failure::Usage(format!("--host {host} is neither an address nor a name known here")).into())
    }

    fn access(&self, address: IpAddr, wrong: &mut UsageErrors) -> Access {
        // The token must be valid in an HTTP header.
        if let Some(token) = &self.token
            && (token.len() < SHORTEST || !token.chars().all(|c| c.is_ascii_graphic()))
        {
            wrong.add(format!(
                "a token needs at least {SHORTEST} characters: ASCII letters, digits or punctuation; make one with \
                 `openssl rand -hex 16`"
            ));
        }
        let is_name =
            |name: &&String| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "-._".contains(c));
        if let Some(name) = self.names.iter().find(|name| !is_name(name)) {
            wrong.add(format!("--allow-host {name} is not a plain host name; leave out the port and the scheme"));
        }
        if !address.is_loopback() && self.token.is_none() && !self.insecure {
            wrong.add(format!(
                "{} can be reached by others: set a --token, or let everyone in with --insecure",
                self.host
            ));
        }
        let own = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let name = (!own.contains(&address)).then_some(&self.host);
        let hosts = self.names.iter().chain(name).map(|name| name.to_ascii_lowercase()).collect();
        let base = self.base_path.trim_end_matches('/');
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(plain);
        if !(base.is_empty() || base.strip_prefix('/').is_some_and(|parts| parts.split('/').all(is_part))) {
            wrong.add(format!("--base-path {} is not a path such as /pictures", self.base_path));
        }
        if let Some(first) = base.split('/').nth(1).filter(|first| OWN.contains(first)) {
            wrong.add(format!("--base-path {base} starts with the server's own path /{first}; choose another"));
        }
        Access { hosts, token: self.token.as_deref().map(Token::new), base: base.to_owned() }
    }

    fn show(&self, address: &str) -> Result<()> {
        let secret = self.token.iter().map(|token| ("token", token));
        Ok(opener::open(reqwest::Url::parse_with_params(address, secret)?.as_str())?)
    }

    #[cfg(feature = "cloud")]
    fn published(&self) -> Result<Option<Published>> {
        let Some(address) = &self.gallery else { return Ok(None) };
        let address = self.table.at(address)?;
        Ok(Some(Published { watch: Table::open(address.clone(), None)?, address, ef: self.ef }))
    }

    fn limits(&self) -> Result<Limits> {
        let bytes = usize::try_from(self.max_upload.as_u64()).ok().filter(|bytes| (1..=1 << 30).contains(bytes));
        let bytes = bytes.ok_or_else(|| Failure::Usage("--max-upload must be from 1 byte to 1 GiB".to_owned()))?;
        Ok(Limits { bytes, pixels: self.max_megapixels * 1_000_000 })
    }
}

/// The results of the pipeline, as a source of snapshots.
struct Pipeline<'a> {
    session: &'a Session,
    of: Option<&'a str>,
    store: Arc<Store>,
    /// The table with the vectors, if they are in a database.
    #[cfg(feature = "cloud")]
    published: Option<Published>,
}

/// A published table, and a connection that watches its version.
#[cfg(feature = "cloud")]
struct Published {
    address: Address,
    ef: Option<usize>,
    watch: Table,
}

impl Source for Pipeline<'_> {
    fn version(&self) -> Result<String> {
        let checked_out = self.store.checked_out_version()?;
        #[cfg(feature = "cloud")]
        if let Some(published) = &self.published {
            return Ok(checked_out + &published.watch.version()?);
        }
        Ok(checked_out)
    }

    fn open(&self) -> Result<Snapshot> {
        let project = self.session.last_project()?;
        let (network, given) = Trained::given(&project, self.of)?;
        // Check before reading. If files are replaced later, the version changes.
        project.must_be_current(&given)?;
        project.must_be_unmodified(&network, model::FILE)?;
        let digest = project.must_be_unmodified(&given, embeddings::FILE)?;
        let trained = Trained::load(&project, self.of)?;
        let own = digest.clone();
        let (searcher, digest) = self.gallery(&project, &trained, digest)?;
        let is_own = digest == own;
        let pictures = trained.pictures(&project)?;
        let mut snapshot = Snapshot::new(trained.model, searcher, digest, pictures)?;
        if !is_own {
            // The report and its map are of other pictures.
            return Ok(snapshot);
        }
        match report(&project, trained.given.id).and_then(|(page, drawn)| Ok((page, snapshot.map(drawn)?))) {
            Ok((page, map)) => (snapshot.report, snapshot.map) = (Some(page.into()), map),
            Err(error) => tracing::debug!("the page shows no report: {error:#}"),
        }
        Ok(snapshot)
    }
}

impl Pipeline<'_> {
    /// Opens the gallery: the table, or the pipeline's embeddings, which have this digest. Also returns its digest.
    fn gallery(&self, project: &Project, trained: &Trained, digest: String) -> Result<(Searcher, String)> {
        let calibration = trained.model.calibration.clone();
        #[cfg(feature = "cloud")]
        if let Some(Published { address, ef, .. }) = &self.published {
            let table = Table::open(address.clone(), *ef)?;
            let digest = table.about.gallery.clone();
            let rows = table.rows(&trained.model.digest)?;
            return Ok((Searcher::with_vectors(rows, Box::new(table), calibration), digest));
        }
        Ok((Searcher::new(trained.embeddings(project)?, calibration)?, digest))
    }
}

/// Reads the report about the embeddings of an instance: its page and its map.
fn report(project: &Project, id: InstanceId) -> Result<(Vec<u8>, Option<results::Map>)> {
    let given = project.artifact(artifacts::METRICS, None, Some(id), None)?;
    project.must_be_current(&given)?;
    project.must_be_unmodified(&given, results::FILE)?;
    let path = given.folder.join(results::FILE);
    let results: results::Results =
        serde_json::from_slice(&files::read(&path)?).map_err(|error| damaged!("{}: {error}", path.display()))?;
    project.must_be_unmodified(&given, html::REPORT)?;
    Ok((files::read(&given.folder.join(html::REPORT))?, results.map))
}
