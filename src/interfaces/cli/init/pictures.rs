//! A look at the user's pictures: which classes there are, and which pictures cannot be used.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::base::error::{Failure, first_of};
use crate::base::progress::Screen;
use crate::base::signal;
use crate::base::text::{legible_name, legible_path};
use crate::interfaces::cli::Session;
use crate::learning::dataset::{MOST_CLASSES, Survey};
use crate::learning::images::{Wanted, decode_for, read_picture};
use crate::retrieval::collection;

/// Pictures of a class that training needs: 2 to test, 2 to measure it on the way, and 2 to learn from.
const LEAST: usize = 6;
/// Pictures of a class that are a good start.
const GOOD: usize = 100;
/// Number of pictures that are opened, spread over all of them.
const OPENED: usize = 1000;
/// Number of things of a kind that a message names.
const NAMED: usize = 5;

/// What was found in the folder of the user.
pub struct Found {
    pub folder: PathBuf,
    pub survey: Survey,
    /// All pictures below the folder, in classes or not.
    all: usize,
    opened: usize,
    /// Why pictures cannot be read.
    bad: Vec<String>,
}

impl Found {
    /// # Errors
    /// If there is no such folder, or no picture in it.
    pub fn look(session: &Session, folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            let what = if folder.exists() { "is not a folder" } else { "does not exist" };
            return Err(Failure::Usage(format!("--pictures: {} {what}", legible_path(folder))).into());
        }
        let search = collection::find(&[folder.to_owned()])?;
        let all: Vec<PathBuf> = search.found.into_iter().map(|found| found.path.into()).collect();
        if all.is_empty() {
            search.skipped.tell();
            let why = format!("--pictures: there is no PNG, JPEG or WebP below {}", legible_path(folder));
            return Err(Failure::Usage(why).into());
        }
        let mut survey = (session.templates.survey)(folder)?;
        if survey.classes.len() < 2 || survey.classes.len() > MOST_CLASSES {
            // The files are not where classes would have them, so the reasons would mislead.
            survey.skipped = search.skipped;
        }
        let wanted: Vec<&PathBuf> = all.iter().step_by(all.len().div_ceil(OPENED)).collect();
        let bar = session.screen.progress("init").bar("pictures", wanted.len() as u64);
        let open = |path: &&PathBuf| -> Result<Option<String>> {
            signal::check()?;
            let read = read_picture(path)
                .and_then(|bytes| Ok(decode_for(&bytes, &path.display().to_string(), &Wanted::default())?));
            bar.inc(1);
            Ok(read.err().map(|error| format!("{error:#}")))
        };
        let bad: Vec<Option<String>> = wanted.par_iter().map(open).collect::<Result<_>>()?;
        let bad = search.bad.into_iter().chain(bad.into_iter().flatten()).collect();
        Ok(Self { folder: folder.to_owned(), survey, all: all.len(), opened: wanted.len(), bad })
    }

    fn too_few(&self) -> Vec<String> {
        let few = self.survey.classes.iter().filter(|(_, count)| **count < LEAST);
        few.map(|(class, count)| format!("{} ({count})", legible_name(class))).collect()
    }

    pub fn has_classes(&self) -> bool {
        self.must_have_classes().is_ok()
    }

    /// Fails unless a network can learn the classes of the folder.
    pub fn must_have_classes(&self) -> Result<()> {
        let (classes, large) = (self.survey.classes.len(), self.survey.classes.len() - self.too_few().len());
        if classes > MOST_CLASSES {
            let why = format!("there are {classes} folders, and a network can learn {MOST_CLASSES} classes at most");
            return Err(Failure::Usage(why).into());
        }
        if large < 2 {
            let why = format!(
                "{} needs two folders with {LEAST} pictures or more, one for each class; use the template `photos` for \
                 pictures without classes",
                legible_path(&self.folder)
            );
            return Err(Failure::Usage(why).into());
        }
        Ok(())
    }

    /// Prints what was found. `classes` says whether the network will learn the folder's classes.
    pub fn tell(&self, screen: &Screen, classes: bool) {
        let Survey { classes: all, skipped, has_parts } = &self.survey;
        let counts = || all.values().copied();
        let (least, most) = (counts().min().unwrap_or_default(), counts().max().unwrap_or_default());
        let count = if classes { counts().sum() } else { self.all };
        let among = match classes {
            true if least == most => format!("{} classes with {least} pictures each", all.len()),
            true => format!("{} classes with {least} to {most} pictures each", all.len()),
            false => "no classes to learn from".to_owned(),
        };
        screen.print(&format!("found {count} pictures below {}: {among}", legible_path(&self.folder)));
        if classes && *has_parts {
            screen.print("the folders say which pictures are for testing, and the split keeps that");
        }
        let few = self.too_few();
        let named = first_of(NAMED, &few);
        if !classes && !few.is_empty() && all.len() - few.len() < 2 {
            screen.print(&format!(
                "to learn classes, two folders need {LEAST} pictures or more; these have fewer:{named}"
            ));
        } else if classes && !few.is_empty() {
            screen.print(&format!(
                "these classes have fewer than {LEAST} pictures; add pictures or move the folders away, because `run all` fails with them:{named}"
            ));
        } else if classes && least < GOOD {
            screen.print(&format!("{GOOD} pictures a class or more give better results"));
        }
        if !self.bad.is_empty() {
            let bad: Vec<String> = self.bad.iter().map(|why| legible_name(why)).collect();
            let (count, opened, named) = (bad.len(), self.opened, first_of(NAMED, &bad));
            screen.print(&format!("{count} of {opened} pictures cannot be read, and will be skipped:{named}"));
        }
        skipped.tell();
    }

    pub fn to_json(&self) -> Value {
        json!({
            "folder": self.folder, "pictures": self.all, "classes": self.survey.classes,
            "opened": self.opened, "unreadable": self.bad, "skipped": self.survey.skipped.counted(),
        })
    }
}
