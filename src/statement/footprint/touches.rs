//! The footprint of one request: what its text may change, and the properties that its parameters name.

use bolt_wire::packstream::{MapView, Walker};

use super::mark::{Footprint, Mark, Marks};
use crate::statement::form::Path;

/// More rows are not looked into.
const MOST_ROWS: usize = 5_000;
/// More names are taken for every name.
const MOST_KEYS: usize = 64;

/// What a text may change, as far as it is the same for each request.
#[derive(Debug)]
pub(in crate::statement) enum Writes {
    /// Nobody knows.
    Whole,
    Known {
        marks: Box<[Mark]>,
        /// Maps of the request whose properties are set.
        sources: Box<[Source]>,
    },
}

/// Maps in a request.
#[derive(Debug, Eq, PartialEq)]
pub(in crate::statement) enum Source {
    /// A parameter, or what lies below it.
    Map(Path),
    /// What lies below each item of a list.
    Rows { list: Path, below: Path },
}

impl Writes {
    /// Nothing at all.
    pub(super) fn nothing() -> Self {
        Self::Known { marks: Box::default(), sources: Box::default() }
    }

    /// What a request with these parameters may change.
    pub(in crate::statement) fn with(&self, parameters: &[u8]) -> Footprint {
        let Self::Known { marks, sources } = self else { return Footprint::WHOLE };
        let mut marks = Marks::from(&**marks);
        for source in sources {
            let known = marks.len() + MOST_KEYS;
            if source.keys(parameters, &mut marks, known).is_none() {
                marks.write_keys();
            }
        }
        marks.into_footprint()
    }
}

impl Source {
    /// Adds the names of the properties; `None` if they cannot be told.
    fn keys(&self, parameters: &[u8], marks: &mut Marks, most: usize) -> Option<()> {
        match self {
            Self::Map(path) => keys(below(parameters, path)?, marks, most),
            Self::Rows { list, below: path } => {
                let mut walker = Walker::new(below(parameters, list)?);
                let rows = walker.list_header().ok()?;
                if rows > MOST_ROWS {
                    return None;
                }
                for _ in 0..rows {
                    keys(below(walker.value().ok()?, path)?, marks, most)?;
                }
                Some(())
            }
        }
    }
}

/// True if there is something at each of these places, and no map.
pub(in crate::statement) fn have_no_map(parameters: &[u8], places: &[Path]) -> bool {
    places.iter().all(|path| {
        let value = below(parameters, path).and_then(<[u8]>::first);
        value.is_some_and(|marker| !matches!(marker, 0xA0..=0xAF | 0xD8..=0xDA))
    })
}

/// The value at a path. A key that stands twice tells nothing.
fn below<'a>(value: &'a [u8], path: &[Box<str>]) -> Option<&'a [u8]> {
    path.iter().try_fold(value, |value, name| {
        let map = MapView::parse(value).ok()?;
        let mut found = map.iter().filter(|(key, _)| **key == **name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value)
    })
}

fn keys(value: &[u8], marks: &mut Marks, most: usize) -> Option<()> {
    for (key, _) in MapView::parse(value).ok()?.iter() {
        marks.write_key(key);
        if marks.len() > most {
            return None;
        }
    }
    Some(())
}
