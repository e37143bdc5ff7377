//! The manifests that `similiai init` writes.

use similiai::interfaces::cli::{Archive, Templates};

use crate::stages::fetch;

pub static TEMPLATES: Templates = Templates {
    sample: include_str!("templates/sample.yaml"),
    classes: include_str!("templates/classes.yaml"),
    archive: ARCHIVE,
    survey: fetch::survey,
};

#[cfg(feature = "sample")]
const ARCHIVE: Archive = Archive {
    source: "data/cifar-10-sample-2k.tar.gz",
    digest: "sha256: ef1c0f59c3bfcf91b66219fbf3ce827e5be83f42dc0cbcf6fbea9ba916c9343c",
    bytes: Some(include_bytes!("../data/cifar-10-sample-2k.tar.gz")),
};

/// All of CIFAR-10. The manifest takes 200 pictures of each class.
#[cfg(not(feature = "sample"))]
const ARCHIVE: Archive = Archive {
    source: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    digest: "contents: fb1f098b1145817777a89b1907f85754bf590cca0b1fd284ed87a57b6a6b3570",
    bytes: None,
};

#[cfg(all(test, feature = "sample"))]
mod tests {
    use std::path::Path;

    use anyhow::Result;
    use similiai::engine::manifest::{Manifest, Variation};

    use super::*;
    use crate::stages::KINDS;

    /// The stages of a manifest, with all parameters that can change their results.
    fn stages(path: &Path, profile: &str) -> Result<Vec<(String, serde_json::Value)>> {
        let variation = Variation { profiles: vec![profile.to_owned()], ..Variation::default() };
        let manifest = Manifest::load(path, KINDS, &variation)?;
        manifest.instances.iter().map(|it| Ok((it.name.clone(), it.stage.keyed_parameters()?))).collect()
    }

    #[test]
    fn the_sample_is_learned_as_in_our_own_manifest() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let made = folder.path().join("pipeline.yaml");
        std::fs::write(
            &made,
            TEMPLATES.sample.replace("{source}", ARCHIVE.source).replace("{digest}", ARCHIVE.digest),
        )?;
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipeline.yaml");
        for profile in ["default", "quick", "best"] {
            assert_eq!(stages(&made, profile)?, stages(&ours, profile)?, "{profile}");
        }
        Ok(())
    }
}
