//! fetch: takes images from an archive or a folder, at a path or an address, and verifies each member.

mod depths;
mod download;
mod folder;
mod readers;
pub mod unpack;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Digest;
use similiai::base::error::Failure;
use similiai::base::files;
use similiai::base::progress::Bar;
use similiai::damaged;
use similiai::engine::cache::Contents;
use similiai::engine::stage::{Context, Inputs, Invalid, Outputs, Stage, require};
use similiai::learning::images::OnBadImage;

use download::Download;
pub use folder::survey;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Fetch {
    /// Path or address (`file://`, `http://` or `https://`) of the images. It names an archive in the binary layout
    /// of CIFAR-10 or CIFAR-100, a gzip-compressed tar archive with members `<class>/<picture>`, or a folder with
    /// files `<class>/<picture>`.
    source: String,
    /// SHA-256 of the archive, in hexadecimal. If given, the archive must have it.
    sha256: Option<String>,
    /// MD5 of the archive, in hexadecimal. If given, the archive must have it.
    md5: Option<String>,
    /// BLAKE3 digest of the unpacked content, in hexadecimal, as a run shows it for the result. It does not depend on
    /// how the archive is packed. If given, the content must have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<String>,
    /// Seconds without data after which a connection is closed.
    timeout: u64,
    /// Number of further tries after a connection fails.
    retries: u32,
    /// What to do with a picture that cannot be used: it cannot be opened, is not a regular file, or has a name that
    /// no class or picture can have.
    on_bad_image: OnBadImage,
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            source: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz".into(),
            sha256: None,
            md5: None,
            contents: None,
            timeout: 30,
            retries: 5,
            on_bad_image: OnBadImage::Fail,
        }
    }
}

const SCHEMES: [&str; 3] = ["http", "https", "file"];

/// Name of the source's content in the key document.
const ARCHIVE: &str = "archive";

/// Where the archive is.
enum Source {
    File(PathBuf),
    Address(reqwest::Url),
}

impl Fetch {
    fn source(&self, project: &Path) -> Result<Source> {
        match reqwest::Url::parse(&self.source) {
            Ok(address) if address.scheme() == "file" => match address.to_file_path() {
                Ok(path) => Ok(Source::File(path)),
                Err(()) => bail!("source {}: this address is not a path on this machine", self.source),
            },
            Ok(address) if matches!(address.scheme(), "http" | "https") => Ok(Source::Address(address)),
            _ => Ok(Source::File(project.join(files::expanded(Path::new(&self.source))))),
        }
    }
}

fn hexadecimal(text: &Option<String>, digits: usize) -> bool {
    text.as_ref().is_none_or(|text| text.len() == digits && text.chars().all(|c| c.is_ascii_hexdigit()))
}

impl Stage for Fetch {
    const NAME: &'static str = "fetch";
    const VERSION: u32 = 6;
    const DRAWS: bool = false;
    const ABOUT: &'static str = "downloads or opens the images, verifies and unpacks them";
    // The place of the archive does not matter: `reads` has its content, or its address.
    const UNKEYED: &'static [&'static str] = &["source", "timeout", "retries"];

    fn check(&self) -> Result<(), Invalid> {
        require(!self.source.is_empty(), "source", "must be a path or an address")?;
        let known = self.source.split_once("://").is_none_or(|(scheme, _)| SCHEMES.contains(&scheme));
        require(known, "source", "must be a path, or an address that starts with http, https or file")?;
        require(hexadecimal(&self.sha256, 64), "sha256", "must have 64 hexadecimal digits")?;
        require(hexadecimal(&self.md5, 32), "md5", "must have 32 hexadecimal digits")?;
        require(hexadecimal(&self.contents, 64), "contents", "must have 64 hexadecimal digits")?;
        require(self.timeout > 0, "timeout", "must be 1 second or more")
    }

    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>> {
        let content = match self.source(&inputs.project)? {
            Source::File(path) if path.is_dir() => folder::digest(&path, self.on_bad_image, inputs)?,
            Source::File(path) if path.exists() && !path.is_file() => {
                bail!(Failure::Usage(format!("{} is neither a file nor a folder", path.display())));
            }
            Source::File(path) => inputs.file_digest(&path)?,
            Source::Address(address) => address.to_string(),
        };
        Ok([(ARCHIVE.to_owned(), content)].into())
    }

    fn external_inputs(&self, project: &Path) -> Vec<PathBuf> {
        match self.source(project) {
            Ok(Source::File(path)) => vec![path],
            _ => Vec::new(),
        }
    }

    fn run(&self, context: &Context) -> Result<()> {
        let (reader, length): (Box<dyn Read>, u64) = match self.source(&context.inputs.project)? {
            Source::File(path) if path.is_dir() => {
                let digest = self.sha256.as_ref().map(|_| "sha256").or(self.md5.as_ref().map(|_| "md5"));
                if let Some(digest) = digest {
                    bail!(
                        "{} is a folder, but {digest} is for archives; add --set fetch.{digest}=null",
                        path.display()
                    );
                }
                return folder::copy(&path, self.on_bad_image, context);
            }
            Source::File(path) => {
                let file = std::fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let length = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
                (Box::new(file), length)
            }
            Source::Address(address) => {
                let download = Download::start(address, self.timeout, self.retries)?;
                let length = download.length();
                (Box::new(download), length)
            }
        };
        let bar = context.progress.bytes("downloading and unpacking", length);
        let mut archive = Watched { reader, bar, sha256: sha2::Sha256::new(), md5: md5::Md5::new() };
        let skipped = unpack::unpack(&mut archive, &self.source, self.on_bad_image, &context.outputs)?;
        archive.compare(self)?;
        self.compare_contents(&context.outputs)?;
        folder::leave(skipped, Path::new(""), context)
    }
}

impl Fetch {
    fn compare_contents(&self, outputs: &Outputs) -> Result<()> {
        let Some(expected) = &self.contents else { return Ok(()) };
        let written = outputs.written().into_iter();
        let found = Contents::new(written.map(|(path, it)| (path, it.bytes, it.digest)).collect())?;
        if !expected.eq_ignore_ascii_case(found.digest()) {
            let found = found.digest();
            return Err(damaged!("{}: its content has the digest {found}, not {expected}", self.source));
        }
        Ok(())
    }
}

/// Reads the archive, computes its digests and shows the progress.
struct Watched {
    reader: Box<dyn Read>,
    bar: Bar,
    sha256: sha2::Sha256,
    md5: md5::Md5,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.sha256.update(&buffer[..count]);
        self.md5.update(&buffer[..count]);
        self.bar.inc(count as u64);
        Ok(count)
    }
}

impl Watched {
    fn compare(self, fetch: &Fetch) -> Result<()> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let found =
            [("sha256", hex(&self.sha256.finalize()), &fetch.sha256), ("md5", hex(&self.md5.finalize()), &fetch.md5)];
        for (name, found, expected) in found {
            if let Some(expected) = expected.as_ref().filter(|expected| !expected.eq_ignore_ascii_case(&found)) {
                return Err(damaged!("{}: its {name} is {found}, but the manifest says {expected}", fetch.source));
            }
        }
        Ok(())
    }
}
