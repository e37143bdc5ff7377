//! Which stored result somebody means.

use anyhow::Result;

use crate::cache::Record;
use crate::failure::Failure;
use crate::pipeline::Project;

/// That of an instance, or the one whose key or digest begins with `name`, among those that `fits`.
pub fn find(project: &Project, name: &str, fits: &dyn Fn(&Record) -> bool) -> Result<Record> {
    let store = &project.store;
    let laid = if project.manifest.find(name).is_ok() { store.laid(name)? } else { None };
    let matches = |record: &Record| match &laid {
        Some(laid) => record.key == laid.key,
        None => name.len() >= 4 && (record.key.starts_with(name) || record.digest.starts_with(name)),
    };
    let all = store.records()?.into_iter();
    let mut found: Vec<Record> = all.filter(|record| fits(record) && matches(record)).collect();
    match (found.len(), found.pop()) {
        (1, Some(record)) => Ok(record),
        (0, _) => {
            let help = "name an instance, or at least 4 digits of a key or digest (`similiai explain INSTANCE`)";
            Err(Failure::Usage(format!("there is no stored result `{name}`; {help}")).into())
        }
        (count, _) => {
            Err(Failure::Usage(format!("{count} stored results begin with `{name}`; give more digits")).into())
        }
    }
}
