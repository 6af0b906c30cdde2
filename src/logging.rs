//! Log lines to standard error, as text or JSON, with a level that can be changed while running.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{Log, LogFormat};

/// Changes the level of a running logger.
#[derive(Clone, Debug)]
pub struct LogHandle(reload::Handle<EnvFilter, Registry>);

/// Why logging could not start or change.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("log.level: {0}")]
    Level(String),
    /// Another logger is already installed in this process.
    #[error("logging is already set up: {0}")]
    Installed(#[from] TryInitError),
    /// The logger is gone.
    #[error("the level could not be changed: {0}")]
    Reload(#[from] reload::Error),
}

/// Starts logging to standard error for the whole process.
pub fn init(log: &Log) -> Result<LogHandle, LogError> {
    let colour = log.format == LogFormat::Text && std::io::stderr().is_terminal();
    let (subscriber, handle) = subscriber(log, colour, std::io::stderr)?;
    subscriber.try_init()?;
    Ok(handle)
}

impl LogHandle {
    /// Takes a new level or filter, at once.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        Ok(self.0.reload(parse_level(level).map_err(LogError::Level)?)?)
    }
}

/// Reads `log.level`; the message says what is wrong with it.
pub(crate) fn parse_level(level: &str) -> Result<EnvFilter, String> {
    for part in level.split(',').map(str::trim) {
        // The filter's own reader takes any bare word for the name of a module.
        if part.is_empty() || (!part.contains('=') && part.parse::<LevelFilter>().is_err()) {
            return Err(format!("`{part}` is not a level"));
        }
    }
    EnvFilter::builder().parse(level).map_err(|error| format!("`{level}` is not a filter: {error}"))
}

fn subscriber<W>(
    log: &Log,
    colour: bool,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync, LogHandle), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse_level(&log.level).map_err(LogError::Level)?);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let layer = match log.format {
        LogFormat::Text => layer.with_ansi(colour).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
    };
    Ok((tracing_subscriber::registry().with(filter).with(layer), LogHandle(handle)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut self.0.lock())).expect("log lines are UTF-8")
        }
    }

    fn with_log(level: &str, format: LogFormat, run: impl FnOnce(&Lines, &LogHandle)) {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = Log { level: level.to_owned(), format };
        let (subscriber, handle) = subscriber(&log, false, move || writer.clone()).expect("a good level");
        tracing::subscriber::with_default(subscriber, || run(&lines, &handle));
    }

    #[test]
    fn text_lines_carry_fields() {
        with_log("info", LogFormat::Text, |lines, _| {
            tracing::info!(clients = 3, "Listening.");
            tracing::debug!("Not shown.");
            let text = lines.take();
            assert!(text.contains("INFO") && text.contains("Listening. clients=3"), "{text}");
            assert!(!text.contains("Not shown") && text.ends_with('\n'), "{text}");
        });
    }

    #[test]
    fn json_lines_are_objects() {
        with_log("warn", LogFormat::Json, |lines, _| {
            tracing::warn!(key = "pool.min_idle", "Kept \"old\" value.");
            let text = lines.take();
            let line: serde_json::Value = serde_json::from_str(&text).expect("one JSON object");
            assert_eq!(line["level"], "WARN");
            assert_eq!(line["message"], "Kept \"old\" value.");
            assert_eq!(line["key"], "pool.min_idle");
        });
    }

    #[test]
    fn the_level_changes_while_running() {
        with_log("error", LogFormat::Text, |lines, handle| {
            tracing::info!("before");
            handle.set_level("info,sidebolt=debug").expect("a good filter");
            tracing::debug!("after");
            let refused = handle.set_level("loud").expect_err("a bad filter").to_string();
            assert_eq!(refused, "log.level: `loud` is not a level");
            tracing::debug!("still");
            let text = lines.take();
            assert!(!text.contains("before") && text.contains("after") && text.contains("still"), "{text}");
        });
    }

    #[test]
    fn bad_levels_say_why() {
        for level in ["", "infoo", "info,", "sidebolt", "sidebolt=loud", "info,a=b=c"] {
            assert!(parse_level(level).is_err(), "{level}");
        }
        for level in ["off", "WARN", "info,sidebolt::upstream=debug", "sidebolt=trace"] {
            assert!(parse_level(level).is_ok(), "{level}");
        }
    }
}
