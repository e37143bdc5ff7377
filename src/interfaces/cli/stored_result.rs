//! Finds the stored result that an argument names.

use anyhow::Result;

use crate::base::error::Failure;
use crate::engine::cache::StoredResult;
use crate::engine::pipeline::Project;

/// Finds the result of the instance `name`, or the one whose key or digest starts with `name`. It must satisfy `fits`.
pub fn find(project: &Project, name: &str, fits: &dyn Fn(&StoredResult) -> bool) -> Result<StoredResult> {
    let store = &project.store;
    let usage = |why: String| Err(Failure::Usage(why).into());
    let is_instance = project.manifest.find(name).is_ok();
    let checked_out = if is_instance { store.checked_out(name)? } else { None };
    let matches = |stored: &StoredResult| match &checked_out {
        Some(checked_out) => stored.key == checked_out.key,
        None => !is_instance && name.len() >= 4 && (stored.key.starts_with(name) || stored.digest.starts_with(name)),
    };
    let found: Vec<StoredResult> = store.results()?.into_iter().filter(matches).collect();
    let (fitting, others): (Vec<StoredResult>, Vec<StoredResult>) = found.into_iter().partition(fits);
    match (fitting.as_slice(), others.as_slice()) {
        ([stored], _) => Ok(stored.clone()),
        ([], [other, ..]) => {
            usage(format!("`{name}` is a result of stage `{}`, which has no metrics", other.document.stage))
        }
        ([], []) if is_instance => usage(format!("`{name}` has no stored result; run `similiai run {name}`")),
        ([], []) => {
            let help = "give an instance, or at least 4 digits of a key or digest (see `similiai explain INSTANCE`)";
            usage(format!("there is no stored result `{name}`; {help}"))
        }
        (several, _) => {
            let keys: Vec<&str> = several.iter().map(|stored| &stored.key[..12]).collect();
            usage(format!("`{name}` matches several results ({}); give one of these keys", keys.join(", ")))
        }
    }
}
