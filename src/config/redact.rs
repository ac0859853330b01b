//! Blanks out secrets in the lines of a file, so that a snippet can be shown.
//!
//! Hidden are the values of keys that hold secrets, in whatever spelling comes close, and everything below a key that
//! does not belong: a misspelt `api_kyes` holds keys all the same.

use std::collections::HashMap;

use super::tree::{Node, Place, Value};

const MASK: char = '*';

/// Keys whose values are secret wherever they stand.
const SECRET_KEYS: [&str; 7] = ["api_keys", "api_key", "mac_key", "secret", "secrets", "password", "token"];

/// The lines of `text` with every secret blanked out. `unknown` are the places of keys that do not belong.
pub(crate) fn lines(text: &str, tree: &Node, unknown: &[Place]) -> Vec<String> {
    let mut lines: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
    Hide { unknown, secret_keys: HashMap::new(), lines: &mut lines }.hide(tree, false);
    lines.into_iter().map(|line| line.into_iter().collect()).collect()
}

struct Hide<'a> {
    unknown: &'a [Place],
    /// Which keys are secret: a file has the same ones thousands of times.
    secret_keys: HashMap<&'a str, bool>,
    lines: &'a mut [Vec<char>],
}

impl<'a> Hide<'a> {
    fn hide(&mut self, node: &'a Node, secret: bool) {
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| self.hide(item, secret)),
            Value::Map(entries) => {
                for entry in entries {
                    let named = *self.secret_keys.entry(&entry.key).or_insert_with_key(|key| is_secret(key));
                    let below = secret || named || self.unknown.contains(&entry.key_place);
                    let policy = matches!(entry.node.value, Value::Map(_)) && entry.key == "api_key";
                    if secret {
                        blank(entry.key_place, self.lines);
                    }
                    self.hide(&entry.node, below && !policy);
                }
            }
            Value::Null | Value::Bool(_) | Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::Text(_) => {
                // `${env:NAME}` is a reference, whether or not it could be filled in.
                let reference = matches!(&node.value, Value::Text(text) if text.starts_with("${"));
                // Whoever takes the private key for the public one shows it all the same.
                let private = matches!(&node.value, Value::Text(text) if text.contains("PRIVATE KEY"));
                if (secret || private) && !node.secret && !reference {
                    blank(node.place, self.lines);
                }
            }
        }
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let is_like = |key: &str| SECRET_KEYS.iter().any(|secret| strsim::damerau_levenshtein(secret, key) <= 2);
    // `client_secret`, `session_secret`, and how they are misspelt.
    let last = key.rsplit(['_', '-']).next().unwrap_or_default();
    is_like(&key) || ["secret", "password"].iter().any(|secret| strsim::damerau_levenshtein(secret, last) <= 1)
}

/// Blanks out a scalar, which may go on over several lines.
fn blank(place: Place, lines: &mut [Vec<char>]) {
    let mut left = place.width.max(1);
    let mut from = place.column.saturating_sub(1);
    for line in lines.iter_mut().skip(place.line.saturating_sub(1)) {
        for slot in line.iter_mut().skip(from) {
            if left == 0 {
                return;
            }
            *slot = MASK;
            left -= 1;
        }
        from = 0;
        left = left.saturating_sub(1);
        if left == 0 {
            return;
        }
    }
}

/// The lines of a file that is no YAML: a line is hidden if the key that it stands under may hold a secret.
pub(crate) fn unparsed(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = Vec::with_capacity(lines.len());
    // The keys that are open, with their indentation.
    let mut open: Vec<(usize, bool)> = Vec::new();
    for line in lines {
        let content = line.trim_start_matches([' ', '-', '\t', '{', '[']);
        let indent = line.chars().count() - content.chars().count();
        open.retain(|(at, _)| *at < indent);
        let under = open.iter().any(|(_, secret)| *secret);
        let key = content.split([':', ' ']).next().unwrap_or_default();
        let opens = content.contains(':');
        let here = SECRET_KEYS.iter().any(|name| line.to_ascii_lowercase().contains(name))
            || is_secret(key.trim_matches(['"', '\'']));
        if opens {
            open.push((indent, here));
        }
        out.push(if under || here {
            let shown: String = line.chars().take(indent).collect();
            let name = if opens && !under { format!("{key}: ") } else { String::new() };
            format!("{shown}{name}***")
        } else {
            line.to_owned()
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_somebody_are_secrets() {
        for key in ["client_secret", "session_secret", "session-secrets", "Client_Secert", "db_password"] {
            assert!(is_secret(key), "{key}");
        }
        for key in ["upstream", "redirect_uri", "client_id", "consumer_claim", "server", "access_log", "web_socket"] {
            assert!(!is_secret(key), "{key}");
        }
    }

    #[test]
    fn secrets_are_blanked_out_in_every_style() {
        let text = "a:\n  api_keys: [hunter2, \"two words\"]\n  x: shown\n  api_kyes: |\n    block\n    more\n";
        let tree = super::super::tree::read(text).unwrap();
        let shown = lines(text, &tree, &[]).join("\n");
        assert!(shown.contains("x: shown"), "{shown}");
        for secret in ["hunter2", "two words", "block", "more"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn secrets_are_blanked_out_where_the_file_is_no_yaml() {
        let text =
            "consumers:\n  a:\n    api_keys:\n      - hunter2\n      - \"hunter3\n  b: { api_keys: [hunter4\nroutes: [";
        let shown = unparsed(text).join("\n");
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("routes: ["), "{shown}");
    }
}
