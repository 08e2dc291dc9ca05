//! What a user started: a name, an owner, and the releases of its spec that are still in use.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AppId, AppSpec, Uid};

/// An app. Its spec changes by whole *releases*: a row and a worker each name the release they were started with, so
/// that during a reload old and new ones stand side by side and the old one can be started again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct App {
    /// Its number.
    pub id: AppId,
    /// Whose it is.
    pub owner: Uid,
    /// The release that new rows get.
    pub release: u32,
    /// Releases that somebody still uses.
    releases: BTreeMap<u32, Arc<AppSpec>>,
    /// The number of the next release.
    next_release: u32,
    /// Whether any of its workers was ever executed.
    pub(super) executed: bool,
}

impl App {
    pub(super) fn new(id: AppId, owner: Uid, spec: Arc<AppSpec>) -> App {
        App { id, owner, release: 0, releases: BTreeMap::from([(0, spec)]), next_release: 1, executed: false }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec().name
    }

    /// What it is now.
    #[must_use]
    pub fn spec(&self) -> &Arc<AppSpec> {
        self.spec_of(self.release)
    }

    /// What it is, or was, in this release.
    ///
    /// # Panics
    /// If no row or worker names that release.
    #[must_use]
    pub fn spec_of(&self, release: u32) -> &Arc<AppSpec> {
        &self.releases[&release]
    }

    /// Keeps `spec` as a release of its own and returns its number; an equal one that is at hand serves as well.
    pub(super) fn add_release(&mut self, spec: Arc<AppSpec>) -> u32 {
        if *self.spec() == spec {
            return self.release;
        }
        let release = self.next_release;
        self.next_release += 1;
        self.releases.insert(release, spec);
        release
    }

    /// How many releases are kept.
    pub(super) fn releases(&self) -> usize {
        self.releases.len()
    }

    /// Forgets the releases that `used` does not confirm.
    pub(super) fn retain_releases(&mut self, used: impl Fn(u32) -> bool) {
        let now = self.release;
        self.releases.retain(|release, _| *release == now || used(*release));
    }
}
