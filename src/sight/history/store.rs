//! The file that history is kept in: written once a minute, whole or not at all, and never larger than wanted.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use super::bucket::Bucket;

/// By the second since 1970 with which they begin.
const MINUTES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("minutes");
const HOURS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("hours");
const DAYS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("days");
/// Alerts by the millisecond since 1970 with which they began, and what tells them apart.
const ALERTS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("alerts");
/// The oldest go first, and those that tell least.
const BUCKETS: [TableDefinition<'_, u64, &[u8]>; 3] = [MINUTES, HOURS, DAYS];
/// Seconds of a minute, an hour and a day.
pub(super) const LENGTHS: [u64; 3] = [60, 3600, 86_400];
/// For how many seconds minutes and hours are kept at most: two days, ten weeks.
const KEPT: [u64; 2] = [2 * 86_400, 70 * 86_400];
/// Pages of the file that are held in memory.
const IN_MEMORY: usize = 1 << 20;
/// How often room is made before it is given up.
const TRIES: usize = 40;

type Result<T> = std::result::Result<T, redb::Error>;

/// The open file.
pub(super) struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens the file in a folder, which is made if it is missing. A file that cannot be read is put aside.
    pub(super) fn open(folder: &Path) -> std::result::Result<Self, String> {
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let path = folder.join("history.redb");
        let open = || Database::builder().set_cache_size(IN_MEMORY).create(&path);
        let database = match open() {
            Ok(database) => database,
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => return Err("another process uses it".to_owned()),
            Err(error) if is_broken(&error) => {
                let aside = path.with_extension("broken");
                tracing::error!(%error, aside = %aside.display(), "The history cannot be read: it is put aside and begun anew.");
                std::fs::rename(&path, &aside).map_err(|error| error.to_string())?;
                open().map_err(|error| error.to_string())?
            }
            Err(error) => return Err(error.to_string()),
        };
        Ok(Self { database, path })
    }

    /// Adds a minute that begins at `second`, to itself, its hour and its day, and what is known of alerts.
    pub(super) fn add(&self, second: u64, bucket: &Bucket, alerts: &[((u64, u64), Value)]) -> Result<()> {
        let write = self.database.begin_write()?;
        for (table, length) in BUCKETS.into_iter().zip(LENGTHS) {
            let mut table = write.open_table(table)?;
            let at = second / length * length;
            let mut sum = table.get(at)?.map(|known| read(known.value())).unwrap_or_default();
            let mut own = bucket.clone();
            if length != 3600 {
                own.queries.clear();
            }
            sum.add(&own);
            table.insert(at, written(&sum).as_slice())?;
        }
        let mut table = write.open_table(ALERTS)?;
        for (key, alert) in alerts {
            let known = table.get(key)?.and_then(|known| serde_json::from_slice(known.value()).ok());
            let alert = worst(known, alert);
            table.insert(key, alert.to_string().as_bytes())?;
        }
        drop(table);
        write.commit()?;
        Ok(())
    }

    /// Forgets what is older than `keep` seconds.
    pub(super) fn forget(&self, now: u64, keep: u64) -> Result<()> {
        let write = self.database.begin_write()?;
        let ages = [keep.min(KEPT[0]), keep.min(KEPT[1]), keep];
        for (table, age) in BUCKETS.into_iter().zip(ages) {
            write.open_table(table)?.retain_in(..now.saturating_sub(age), |_, _| false)?;
        }
        let first = now.saturating_sub(keep).saturating_mul(1000);
        write.open_table(ALERTS)?.retain_in(..(first, 0), |_, _| false)?;
        write.commit()?;
        Ok(())
    }

    /// Makes the file no larger than `most` bytes: what is oldest goes, minutes before hours, hours before days.
    pub(super) fn bound(&mut self, most: u64) -> Result<()> {
        for _ in 0..TRIES {
            // The file grows by doubling, so that half of it has to be free.
            if self.size() <= most && self.used()? <= most / 2 {
                return Ok(());
            }
            if !self.drop_oldest()? && self.size() <= most {
                return Ok(());
            }
            while self.database.compact()? {}
        }
        Ok(())
    }

    /// Drops the older half of the finest table that has more than a little; false if there is none.
    fn drop_oldest(&self) -> Result<bool> {
        let write = self.database.begin_write()?;
        let mut dropped = false;
        for table in BUCKETS {
            let mut table = write.open_table(table)?;
            let keys: Vec<u64> = table
                .iter()?
                .map(|row| row.map(|(key, _)| key.value()))
                .collect::<std::result::Result<_, _>>()?;
            if keys.len() > 24 {
                let middle = keys.get(keys.len() / 2).copied().unwrap_or_default();
                table.retain_in(..middle, |_, _| false)?;
                dropped = true;
                break;
            }
        }
        if !dropped {
            let mut table = write.open_table(ALERTS)?;
            let keys: Vec<(u64, u64)> = table
                .iter()?
                .map(|row| row.map(|(key, _)| key.value()))
                .collect::<std::result::Result<_, _>>()?;
            if let Some(middle) = keys.get(keys.len() / 2).copied() {
                table.retain_in(..=middle, |_, _| false)?;
                dropped = true;
            }
        }
        write.commit()?;
        Ok(dropped)
    }

    /// Bytes in use inside of the file.
    fn used(&self) -> Result<u64> {
        let write = self.database.begin_write()?;
        let stats = write.stats()?;
        write.abort()?;
        Ok(stats.allocated_pages() * stats.page_size() as u64)
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// The hours that begin in a time, the oldest first.
    pub(super) fn hours(&self, from: u64, to: u64) -> Result<Vec<(u64, Bucket)>> {
        self.buckets(HOURS, from, to)
    }

    /// The days that begin in a time, the oldest first.
    pub(super) fn days(&self, from: u64, to: u64) -> Result<Vec<(u64, Bucket)>> {
        self.buckets(DAYS, from, to)
    }

    /// The minutes that begin in a time, the oldest first.
    #[cfg(test)]
    pub(super) fn minutes(&self, from: u64, to: u64) -> Result<Vec<(u64, Bucket)>> {
        self.buckets(MINUTES, from, to)
    }

    fn buckets(
        &self,
        table: TableDefinition<'_, u64, &'static [u8]>,
        from: u64,
        to: u64,
    ) -> Result<Vec<(u64, Bucket)>> {
        let table = match self.database.begin_read()?.open_table(table) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut found = Vec::new();
        for row in table.range(from..to)? {
            let (key, value) = row?;
            found.push((key.value(), read(value.value())));
        }
        Ok(found)
    }

    /// Alerts that began in a time (milliseconds), the oldest first.
    pub(super) fn alerts(&self, from: u64, to: u64) -> Result<Vec<Value>> {
        let table = match self.database.begin_read()?.open_table(ALERTS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut found = Vec::new();
        for row in table.range((from, 0)..(to, 0))? {
            let (_, value) = row?;
            found.extend(serde_json::from_slice::<Value>(value.value()));
        }
        Ok(found)
    }
}

/// Whether what is in the file is not what it should be.
fn is_broken(error: &redb::DatabaseError) -> bool {
    match error {
        redb::DatabaseError::Storage(redb::StorageError::Corrupted(_))
        | redb::DatabaseError::RepairAborted
        | redb::DatabaseError::UpgradeRequired(_) => true,
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) => {
            error.kind() == std::io::ErrorKind::InvalidData
        }
        _ => false,
    }
}

/// What cannot be read, because a later Sidebolt has written it, counts as nothing.
fn read(bytes: &[u8]) -> Bucket {
    serde_json::from_slice(bytes).unwrap_or_default()
}

fn written(bucket: &Bucket) -> Vec<u8> {
    serde_json::to_vec(bucket).unwrap_or_default()
}

/// The newer state of an alert, with the worst level that it had.
fn worst(known: Option<Value>, new: &Value) -> Value {
    const LEVELS: [&str; 4] = ["info", "warning", "critical", "emergency"];
    let rank = |alert: &Value| LEVELS.iter().position(|level| alert["level"] == *level);
    let mut alert = new.clone();
    if let Some(known) = known
        && rank(&known) > rank(&alert)
    {
        alert["level"] = known["level"].clone();
        alert["message"] = known["message"].clone();
    }
    alert
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
