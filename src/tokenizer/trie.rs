//! Longest-prefix matching over a fixed set of strings.

/// A byte trie: nodes hold their children sorted by byte.
#[derive(Debug, Clone, Default)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    children: Vec<(u8, u32)>,
    is_end: bool,
}

impl Trie {
    pub fn new<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut nodes = vec![Node::default()];
        for word in words.into_iter().filter(|word| !word.is_empty()) {
            let mut at = 0;
            for &byte in word.as_bytes() {
                at = match nodes[at].children.binary_search_by_key(&byte, |child| child.0) {
                    Ok(found) => nodes[at].children[found].1 as usize,
                    Err(place) => {
                        let next = nodes.len();
                        nodes[at].children.insert(place, (byte, next as u32));
                        nodes.push(Node::default());
                        next
                    }
                };
            }
            nodes[at].is_end = true;
        }
        Trie { nodes }
    }

    /// Length in bytes of the longest word that `text` begins with.
    pub fn longest_prefix(&self, text: &str) -> Option<usize> {
        let (mut at, mut longest) = (0, None);
        for (i, byte) in text.bytes().enumerate() {
            let children = &self.nodes.get(at)?.children;
            let Ok(found) = children.binary_search_by_key(&byte, |child| child.0) else { break };
            at = children[found].1 as usize;
            if self.nodes[at].is_end {
                longest = Some(i + 1);
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_word_wins() {
        let trie = Trie::new(["\n", "\n\n", "<loc0001>", "é"]);
        assert_eq!(trie.longest_prefix("\n\n\n"), Some(2));
        assert_eq!(trie.longest_prefix("<loc0001><"), Some(9));
        assert_eq!(trie.longest_prefix("<loc000"), None);
        assert_eq!(trie.longest_prefix("ée"), Some(2));
        assert_eq!(trie.longest_prefix(""), None);
        assert_eq!(Trie::default().longest_prefix("a"), None);
    }
}
