//! Reads files that hold one large mapping on all CPUs: each is cut between two of its keys, and the pieces are joined.
//!
//! A cut is made only where a line begins with a letter, a digit or `_`, which within a mapping is the next key. Where YAML
//! means something else (a quoted text over several lines, an anchor that another piece uses), a piece is not valid by
//! itself, and the file is read again as a whole; so are files with a mistake, for the message.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::tree::{self, Node, Value};

/// A piece of fewer bytes is not worth a thread.
const SMALLEST: usize = 256 << 10;

/// A part of a text, with the lines before it.
struct Piece<'a> {
    file: usize,
    lines: usize,
    text: &'a str,
}

/// The trees of these texts, in their order; `None` where a text has to be read as a whole.
pub(super) fn read_all(texts: &[&str]) -> Vec<Option<Node>> {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let total: usize = texts.iter().map(|text| text.len()).sum();
    // A few for each CPU, so that none waits long for the last one.
    let size = (total / (cpus * 4)).max(SMALLEST);
    let pieces: Vec<Piece<'_>> = texts.iter().enumerate().flat_map(|(file, text)| cut(file, text, size)).collect();
    let mut joined: Vec<Option<Node>> = texts.iter().map(|_| Some(Node::empty())).collect();
    for (piece, tree) in pieces.iter().zip(read_pieces(&pieces, cpus)) {
        if let Some(whole) = joined.get_mut(piece.file) {
            *whole = whole.take().and_then(|whole| append(whole, tree?, piece.lines));
        }
    }
    joined.into_iter().map(|tree| tree.filter(has_each_key_once)).collect()
}

fn read_pieces(pieces: &[Piece<'_>], cpus: usize) -> Vec<Option<Node>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mine = std::iter::from_fn(|| {
            let at = next.fetch_add(1, Ordering::Relaxed);
            pieces.get(at).map(|piece| (at, tree::read(piece.text).ok()))
        });
        mine.collect::<Vec<_>>()
    };
    let mut trees: Vec<Option<Node>> = pieces.iter().map(|_| None).collect();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cpus.min(pieces.len())).map(|_| scope.spawn(work)).collect();
        // What a thread did that panicked is missing, so its file is read as a whole, where the panic is seen.
        for (at, tree) in threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()) {
            if let Some(place) = trees.get_mut(at) {
                *place = tree;
            }
        }
    });
    trees
}

/// Pieces of about this size. A file of several documents stays whole.
fn cut(file: usize, text: &str, size: usize) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut rest, mut lines) = (text, 0);
    let is_one = !["---", "...", "%"].iter().any(|mark| text.starts_with(mark) || text.contains(&format!("\n{mark}")));
    while is_one && let Some(at) = next_key(rest, size) {
        let (piece, after) = rest.split_at(at);
        pieces.push(Piece { file, lines, text: piece });
        lines += piece.matches('\n').count();
        rest = after;
    }
    pieces.push(Piece { file, lines, text: rest });
    pieces
}

/// Where the first key begins behind so many bytes.
fn next_key(text: &str, behind: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let ends = bytes.iter().enumerate().skip(behind).filter(|(_, byte)| **byte == b'\n');
    ends.map(|(at, _)| at + 1)
        .find(|at| bytes.get(*at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_'))
}

/// Adds the entries of a piece that has so many lines before it.
fn append(mut whole: Node, mut piece: Node, lines: usize) -> Option<Node> {
    let (Value::Map(all), Value::Map(entries)) = (&mut whole.value, &mut piece.value) else {
        return None;
    };
    for entry in entries.iter_mut() {
        entry.key_place.line += lines;
        entry.node.walk_mut(&mut |node| move_down(node, lines));
    }
    if all.is_empty() {
        whole.place = piece.place;
        whole.place.line += lines;
        // Most files are one piece.
        *all = std::mem::take(entries);
    } else {
        all.append(entries);
    }
    Some(whole)
}

fn move_down(node: &mut Node, lines: usize) {
    node.place.line += lines;
    if let Value::Map(entries) = &mut node.value {
        for entry in entries {
            entry.key_place.line += lines;
        }
    }
}

fn has_each_key_once(tree: &Node) -> bool {
    let keys = tree.keys();
    let distinct: HashSet<&&str> = keys.iter().collect();
    distinct.len() == keys.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str, size: usize) -> Option<Node> {
        let pieces = cut(0, text, size);
        let trees = read_pieces(&pieces, 2);
        let mut whole = Some(Node::empty());
        for (piece, tree) in pieces.iter().zip(trees) {
            whole = whole.and_then(|whole| append(whole, tree?, piece.lines));
        }
        whole.filter(has_each_key_once)
    }

    #[test]
    fn pieces_make_the_tree_of_the_whole() {
        let text = "# first\na: { b: [1, two] }\n\nc:\n  d: |\n    text\n    more\n- : 7\n"
            .replace("- : 7\n", "e: [\n 1]\nf: x\n");
        let whole = format!("{:?}", tree::read(&text).unwrap());
        for size in 0..text.len() {
            assert_eq!(format!("{:?}", pieces(&text, size).unwrap()), whole, "{size}");
        }
        assert!(cut(0, &text, 0).len() > 3);
    }

    #[test]
    fn what_is_no_mapping_of_distinct_keys_is_read_as_a_whole() {
        for text in
            ["a: 1\nb: 2\na: 3\n", "a: &x 1\nb: *x\n", "a: \"one\nb: 2\"\n", "a: {\nb: 1 }\nc: 2\n", "a: 1\nb: [\n"]
        {
            assert!(pieces(text, 0).is_none(), "{text}");
        }
        assert_eq!(cut(0, "a: 1\n---\nb: 2\n", 0).len(), 1);
    }
}
