//! The known word that a misspelt one probably stands for.

/// Largest number of changes to a word.
const MAX_DISTANCE: usize = 2;

/// Returns the known word that differs least from `word`, if the difference is small.
pub(crate) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Of a short word, most characters must be right.
    let limit = MAX_DISTANCE.min(word.chars().count() / 3);
    let near = known.into_iter().map(|known| (distance(word, known), known));
    near.filter(|(distance, _)| *distance <= limit).min_by_key(|near| near.0).map(|near| near.1)
}

/// Characters to insert, delete or replace, and neighbours to exchange, to get from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<_>>()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(a != b);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && (*a, from[i - 1]) == (to[j - 1], *b) {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_misspelt_word_and_guesses_no_other() {
        let known = ["wait", "every", "max_age", "guard", "guard_window"];
        for (word, expected) in [
            ("wiat", Some("wait")),
            ("wat", Some("wait")),
            ("waits", Some("wait")),
            ("evrey", Some("every")),
            ("evry", Some("every")),
            ("max-age", Some("max_age")),
            ("guard_windwo", Some("guard_window")),
            ("spelt", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(closest(word, known), expected, "{word}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
