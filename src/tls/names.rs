//! Names under which something is filed: exact before wildcard, the longest wildcard first, then what is for any name.

use std::collections::HashMap;

use crate::config::route::HostPattern;

/// Something for each name.
#[derive(Clone, Debug)]
pub struct Names<T> {
    exact: HashMap<Box<str>, T>,
    /// By the name behind `*.`.
    wildcard: HashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new(), any: None }
    }
}

impl<T> Names<T> {
    /// Files `value` under a pattern; without one, for any name. What is there already stays.
    pub fn add(&mut self, pattern: Option<&HostPattern>, value: T) {
        match pattern {
            None => drop(self.any.get_or_insert(value)),
            Some(HostPattern { name, wildcard }) => {
                let filed = if *wildcard { &mut self.wildcard } else { &mut self.exact };
                filed.entry(name.as_str().into()).or_insert(value);
            }
        }
    }

    /// What is filed for a name in lower case, or for clients that give none.
    pub fn find(&self, name: Option<&str>) -> Option<&T> {
        let by_name = name.and_then(|name| {
            self.exact.get(name).or_else(|| {
                let parents = std::iter::successors(name.split_once('.'), |(_, rest)| rest.split_once('.'));
                parents.map(|(_, parent)| parent).find_map(|parent| self.wildcard.get(parent))
            })
        });
        by_name.or(self.any.as_ref())
    }

    /// Whether nothing is filed.
    pub fn is_empty(&self) -> bool {
        self.any.is_none() && self.exact.is_empty() && self.wildcard.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_before_the_longest_wildcard_before_any() {
        let mut names = Names::default();
        for (pattern, value) in
            [("a.example.test", 1), ("*.example.test", 2), ("*.b.example.test", 3), ("*.example.test", 9)]
        {
            names.add(Some(&pattern.parse().unwrap()), value);
        }
        assert_eq!(names.find(Some("other.test")), None);
        names.add(None, 4);
        for (name, wanted) in [
            (Some("a.example.test"), 1),
            (Some("c.example.test"), 2),
            (Some("x.b.example.test"), 3),
            (Some("y.x.b.example.test"), 3),
            (Some("b.example.test"), 2),
            (Some("example.test"), 4),
            (None, 4),
        ] {
            assert_eq!(names.find(name), Some(&wanted), "{name:?}");
        }
    }
}
