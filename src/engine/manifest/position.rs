//! Finds the position of each key and value in a YAML text.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, Span};

use super::error::SourceSpan;

/// How many characters of a long line are shown before and after a span.
const SHOWN: usize = 200;

/// Which side of `key: value` is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Key,
    Value,
}

/// A path of keys and list indices.
pub type Path = Vec<String>;

pub struct Positions<'a> {
    source: &'a str,
    text: &'a str,
    spans: HashMap<(Path, Side), Span>,
    /// Where lists and mappings are nested more than [`DEPTH`] levels deep.
    pub too_deep: Option<SourceSpan>,
    /// Where the aliases (`*name`) up to here expand to more than [`ALIASED`] values.
    pub too_large: Option<SourceSpan>,
}

/// How deep lists and mappings may be nested. A manifest needs five levels.
pub const DEPTH: usize = 64;

/// How many values all aliases together may expand to. A short text of nested aliases can expand to billions.
pub const ALIASED: usize = 100_000;

enum Open {
    Mapping { key: Option<String> },
    Sequence { next: usize },
}

/// How many values each anchor (`&name`) expands to, with the aliases in it expanded.
#[derive(Default)]
struct Sizes {
    of: HashMap<usize, usize>,
    /// For each open list and mapping: its anchor, or 0, and how many values came before it.
    open: Vec<(usize, usize)>,
    all: usize,
    aliased: usize,
}

impl Sizes {
    fn count(&mut self, event: &Event) {
        match event {
            Event::Scalar(_, _, anchor, _) => {
                self.all += 1;
                self.of.insert(*anchor, 1);
            }
            Event::Alias(anchor) => {
                let size = self.of.get(anchor).copied().unwrap_or(1);
                self.all = self.all.saturating_add(size);
                self.aliased = self.aliased.saturating_add(size);
            }
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                self.open.push((*anchor, self.all));
                self.all += 1;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((anchor, before)) = self.open.pop() {
                    self.of.insert(anchor, self.all - before);
                }
            }
            _ => {}
        }
    }
}

impl<'a> Positions<'a> {
    /// Reads the positions in `text`, up to the first syntax error. `source` is the name of the text in messages.
    pub fn of(source: &'a str, text: &'a str) -> Self {
        let mut spans = HashMap::new();
        let mut open: Vec<Open> = Vec::new();
        let mut path: Path = Vec::new();
        let (mut too_deep, mut too_large) = (None, None);
        let mut sizes = Sizes::default();
        for event in Parser::new_from_str(text) {
            let Ok((event, span)) = event else { break };
            if open.len() > DEPTH {
                too_deep = Some(span);
                break;
            }
            sizes.count(&event);
            if sizes.aliased > ALIASED {
                too_large = Some(span);
                break;
            }
            match event {
                Event::Scalar(value, ..) => {
                    if let Some(Open::Mapping { key: key @ None }) = open.last_mut() {
                        *key = Some(value.to_string());
                        path.push(value.into_owned());
                        spans.insert((path.clone(), Side::Key), span);
                    } else {
                        begin(&mut open, &mut path);
                        spans.insert((path.clone(), Side::Value), span);
                        end(&mut open, &mut path);
                    }
                }
                Event::Alias(_) => {
                    begin(&mut open, &mut path);
                    spans.insert((path.clone(), Side::Value), span);
                    end(&mut open, &mut path);
                }
                Event::MappingStart(..) | Event::SequenceStart(..) => {
                    begin(&mut open, &mut path);
                    spans.insert((path.clone(), Side::Value), span);
                    open.push(match event {
                        Event::MappingStart(..) => Open::Mapping { key: None },
                        _ => Open::Sequence { next: 0 },
                    });
                }
                Event::MappingEnd | Event::SequenceEnd => {
                    open.pop();
                    end(&mut open, &mut path);
                }
                _ => {}
            }
        }
        let positions = Self { source, text, spans, too_deep: None, too_large: None };
        let at = |span: Span| positions.at(span.start.line(), span.start.col() + 1, 1);
        let (too_deep, too_large) = (too_deep.map(at), too_large.map(at));
        Self { too_deep, too_large, ..positions }
    }

    /// The span of `path`. If it is not in the text, the span of the nearest key around it.
    pub fn span(&self, path: &[String], side: Side) -> Option<SourceSpan> {
        let span = (0..=path.len()).rev().find_map(|length| {
            let find = |side| self.spans.get(&(path[..length].to_vec(), side));
            if length == path.len() { find(side).or(find(Side::Key)) } else { find(Side::Key) }
        });
        let span = span?;
        let length = if span.start.line() == span.end.line() { span.end.col() - span.start.col() } else { 1 };
        Some(self.at(span.start.line(), span.start.col() + 1, length))
    }

    /// The span at `line` and `column`, both from 1.
    pub fn at(&self, line: usize, column: usize, length: usize) -> SourceSpan {
        let text = self.text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        // Show only the part of a long line that is around the span.
        let (from, column) = if column > SHOWN { (column - SHOWN / 2, SHOWN / 2) } else { (0, column.max(1)) };
        let text = text.chars().skip(from).take(2 * SHOWN).collect();
        SourceSpan { source: self.source.to_owned(), line, column, length: length.clamp(1, SHOWN), text }
    }
}

/// At the begin of a value. In a list, its index is added to the path.
fn begin(open: &mut [Open], path: &mut Path) {
    if let Some(Open::Sequence { next }) = open.last_mut() {
        path.push(next.to_string());
        *next += 1;
    }
}

/// At the end of a value. Its key or index is removed from the path.
fn end(open: &mut [Open], path: &mut Path) {
    match open.last_mut() {
        Some(Open::Mapping { key }) => {
            *key = None;
            path.pop();
        }
        Some(Open::Sequence { .. }) => drop(path.pop()),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_keys_values_and_list_items() {
        let text = "seed: 42\nstages:\n  train: {uses: train, needs: [split, prepare], epochs: 40}\n";
        let positions = Positions::of("p.yaml", text);
        let span = |path: &[&str], side| {
            let path: Path = path.iter().map(|part| part.to_string()).collect();
            positions.span(&path, side).map(|span| (span.line, span.column, span.length))
        };
        assert_eq!(span(&["seed"], Side::Value), Some((1, 7, 2)));
        assert_eq!(span(&["stages", "train", "needs", "1"], Side::Value), Some((3, 39, 7)));
        assert_eq!(span(&["stages", "train", "epochs"], Side::Key), Some((3, 49, 6)));
        assert_eq!(span(&["stages", "train", "absent"], Side::Value), Some((3, 3, 5)), "nearest around it");
    }
}
