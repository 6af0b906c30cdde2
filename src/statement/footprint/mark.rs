//! What an answer can depend on, and a write can change.

/// Something that an answer can depend on and a write can change. Two footprints touch each other if they share a mark.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Mark {
    /// The set of nodes with this label.
    Label(Box<str>),
    /// The set of relationships of this type.
    Type(Box<str>),
    /// The values of this property, at whatever was there before.
    Key(Box<str>),
    /// The set of all nodes: read by a lone pattern without a label, changed by each creation and deletion of a node.
    AnyNode,
    /// The labels of nodes: read by `labels(n)` and by who shows a whole node, changed by each change of a label.
    AnyLabel,
    /// The set of all relationships: read by a pattern without a type, changed by each creation and deletion of one.
    AnyType,
    /// All properties: read by `properties(n)`, `n {.*}` and by who shows a whole node, changed by each write of a property.
    AnyKey,
    /// Labels of which nobody knows the names: changed by a dynamic label, read by whoever reads some label.
    EveryLabel,
    /// Types of which nobody knows the names: changed by a dynamic type, read by whoever reads some type.
    EveryType,
    /// Properties of which nobody knows the names: changed by `SET n = $map`, read by whoever reads some property.
    EveryKey,
}

/// What an answer depends on, or what a write changes: marks, each once. `None` is the whole database.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Footprint(pub(crate) Option<Box<[Mark]>>);

impl Footprint {
    /// The whole database.
    pub(crate) const WHOLE: Self = Self(None);

    /// True if a write with this footprint may change an answer with the other.
    #[cfg(test)]
    pub(crate) fn touches(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(own), Some(other)) => own.iter().any(|mark| other.contains(mark)),
            (Some(marks), None) | (None, Some(marks)) => !marks.is_empty(),
            (None, None) => true,
        }
    }
}

/// Marks that are being gathered.
#[derive(Debug, Default)]
pub(super) struct Marks {
    list: Vec<Mark>,
}

impl Marks {
    pub(super) fn add(&mut self, mark: Mark) {
        if !self.list.contains(&mark) {
            self.list.push(mark);
        }
    }

    pub(super) fn read_label(&mut self, name: &str) {
        self.add(Mark::Label(name.into()));
        self.add(Mark::EveryLabel);
    }

    pub(super) fn read_type(&mut self, name: &str) {
        self.add(Mark::Type(name.into()));
        self.add(Mark::EveryType);
    }

    pub(super) fn read_key(&mut self, name: &str) {
        self.add(Mark::Key(name.into()));
        self.add(Mark::EveryKey);
    }

    /// Whole nodes and relationships with all that they carry.
    pub(super) fn read_whole(&mut self) {
        self.add(Mark::AnyKey);
        self.add(Mark::AnyLabel);
    }

    pub(super) fn write_key(&mut self, name: &str) {
        self.add(Mark::Key(name.into()));
        self.add(Mark::AnyKey);
    }

    /// Properties whose names are not known.
    pub(super) fn write_keys(&mut self) {
        self.add(Mark::EveryKey);
        self.add(Mark::AnyKey);
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn into_footprint(self) -> Footprint {
        Footprint(Some(self.list.into()))
    }

    pub(super) fn into_marks(self) -> Box<[Mark]> {
        self.list.into()
    }
}

impl From<&[Mark]> for Marks {
    fn from(marks: &[Mark]) -> Self {
        Self { list: marks.to_vec() }
    }
}
