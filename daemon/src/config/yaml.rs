//! One YAML document into a tree. Fails on malformed YAML and on everything in it that could surprise or exhaust; each
//! failure has its place and repeats no value.
use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, options};

use super::{
    ConfigError,
    tree::{Entry, Node, Origin, Value},
};

/// Deepest nesting. The deepest of our files has six levels.
pub const DEPTH_MAX: usize = 64;

/// Most values in one file, aliases expanded: room for a thousand clusters, not for an alias bomb.
pub const NODES_MAX: usize = 100_000;

/// Most text in one file, aliases expanded.
pub const TEXT_MAX: usize = 4 * 1024 * 1024;

/// One document. An empty one is an empty map: then every default applies.
pub(super) fn parse(text: &str, path: &Path) -> Result<Node, ConfigError> {
    let mut reader = Reader::new(text);
    reader
        .document()
        .map_err(|(origin, message)| ConfigError::Parse { message: format!("{}: {message}", origin.place(path)) })
}

type Refused = (Origin, String);

struct Reader<'a> {
    events: Parser<'a, serde_saphyr::granit_parser::StrInput<'a>>,
    /// Finished anchored nodes, by the parser's number.
    anchors: HashMap<usize, Node>,
    nodes: usize,
    bytes: usize,
    last: Origin,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        let options = options! { emit_comments: false, flow_nesting_limit: DEPTH_MAX, block_nesting_limit: DEPTH_MAX };
        Self {
            events: Parser::new_from_str_with_options(text, options),
            anchors: HashMap::new(),
            nodes: 0,
            bytes: 0,
            last: Origin::File { line: 1, column: 1 },
        }
    }

    fn document(&mut self) -> Result<Node, Refused> {
        let root = loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(..), _) => {}
                (Event::StreamEnd, _) => return Ok(Node::empty_map(Origin::File { line: 1, column: 1 })),
                (event, origin) => break self.node(event, origin, 0)?,
            }
        };
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => break,
                (Event::DocumentEnd, _) => {}
                (_, origin) => return Err((origin, "a second document (`---`); one file is one document".to_owned())),
            }
        }
        if root.is_null() { Ok(Node::empty_map(root.origin)) } else { Ok(root) }
    }

    fn next(&mut self) -> Result<(Event<'a>, Origin), Refused> {
        match self.events.next() {
            Some(Ok((event, span))) => {
                self.last = origin(&span.start);
                Ok((event, self.last.clone()))
            }
            Some(Err(error)) => Err((origin(error.marker()), format!("not valid YAML: {}", error.kind()))),
            None => Err((self.last.clone(), "not valid YAML: it ends too early".to_owned())),
        }
    }

    fn node(&mut self, event: Event<'a>, origin: Origin, depth: usize) -> Result<Node, Refused> {
        if depth > DEPTH_MAX {
            return Err((origin, format!("nested deeper than {DEPTH_MAX} levels (DEPTH_MAX)")));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some(), &origin)?;
                self.charge(1, text.len(), &origin)?;
                (Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), &origin)?;
                self.charge(1, 0, &origin)?;
                (self.list(depth)?, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), &origin)?;
                self.charge(1, 0, &origin)?;
                (self.map(depth)?, anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err((origin, "an alias inside of what it stands for".to_owned()));
                };
                let (nodes, bytes, deep) = weigh(node);
                if depth + deep > DEPTH_MAX {
                    return Err((origin, format!("nested deeper than {DEPTH_MAX} levels (DEPTH_MAX)")));
                }
                self.charge(nodes, bytes, &origin)?;
                return Ok(self.anchors[&anchor].clone());
            }
            _ => return Err((origin, "not valid YAML: a value is missing".to_owned())),
        };
        let node = Node { value, origin };
        if anchor != 0 {
            // Kept twice, so it counts twice.
            let (nodes, bytes, _) = weigh(&node);
            self.charge(nodes, bytes, &node.origin)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Value, Refused> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, origin) => items.push(self.node(event, origin, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Refused> {
        let (mut entries, mut seen) = (Vec::<Entry>::new(), HashSet::new());
        loop {
            let (key, origin) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Value::Map(entries)),
                (event, origin) => (self.node(event, origin.clone(), depth + 1)?, origin),
            };
            let Value::Scalar { text: key, plain } = key.value else {
                return Err((origin, "a key must be one word or a quoted text".to_owned()));
            };
            if plain && key == "<<" {
                return Err((origin, "merge keys (`<<`) are not used here: write the keys out".to_owned()));
            }
            if !seen.insert(key.clone()) {
                let first = entries.iter().find(|entry| entry.key == key).map(|entry| &entry.origin);
                let first = match first {
                    Some(Origin::File { line, .. }) => format!(" (first in line {line})"),
                    _ => String::new(),
                };
                return Err((origin, format!("{key}: this key is there twice{first}")));
            }
            let (event, at) = self.next()?;
            let node = self.node(event, at, depth + 1)?;
            entries.push(Entry { key, origin, node });
        }
    }

    fn charge(&mut self, nodes: usize, bytes: usize, origin: &Origin) -> Result<(), Refused> {
        self.nodes += nodes;
        self.bytes += bytes;
        if self.nodes > NODES_MAX {
            return Err((
                origin.clone(),
                format!("more than {NODES_MAX} values (NODES_MAX), aliases counted each time"),
            ));
        }
        if self.bytes > TEXT_MAX {
            return Err((
                origin.clone(),
                format!("more than {TEXT_MAX} bytes of text (TEXT_MAX), aliases counted each time"),
            ));
        }
        Ok(())
    }
}

fn origin(at: &Marker) -> Origin {
    // The parser counts columns from 0.
    Origin::File { line: at.line(), column: at.col() + 1 }
}

fn refuse_tag(tagged: bool, origin: &Origin) -> Result<(), Refused> {
    if tagged { Err((origin.clone(), "tags (`!…`) are not used here".to_owned())) } else { Ok(()) }
}

/// Nodes, bytes of text and depth.
fn weigh(node: &Node) -> (usize, usize, usize) {
    let add = |(nodes, bytes, depth): (usize, usize, usize), (more, text, deep): (usize, usize, usize)| {
        (nodes + more, bytes + text, depth.max(deep + 1))
    };
    match &node.value {
        Value::Scalar { text, .. } => (1, text.len(), 0),
        Value::List(items) => items.iter().map(weigh).fold((1, 0, 0), add),
        Value::Map(entries) => {
            let weigh = |entry: &Entry| {
                let (nodes, bytes, depth) = weigh(&entry.node);
                (nodes + 1, bytes + entry.key.len(), depth)
            };
            entries.iter().map(weigh).fold((1, 0, 0), add)
        }
    }
}
