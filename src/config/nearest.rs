//! The known word nearest to one that is not known.

/// The candidate that a typing error most likely meant, if any is near enough.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Long words make no one wiser, and the table grows with their square.
    if word.len() > 64 {
        return None;
    }
    let (distance, best) = candidates.map(|known| (distance(word, known), known)).min()?;
    // A third of the word may be wrong, but never all of a short one.
    (distance <= (word.chars().count() / 3).clamp(1, 4)).then_some(best)
}

/// Edits from one word to another: insertion, deletion, replacement and the swap of two neighbours count one each.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, edits) in [("", "abc", 3), ("kitten", "sitting", 3), ("instnaces", "instances", 1), ("a", "a", 0)] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn finds_what_was_meant_and_does_not_guess_wildly() {
        let known = ["instances", "max_restarts", "env", "watch"];
        assert_eq!(nearest("instance", known.into_iter()), Some("instances"));
        assert_eq!(nearest("max_restart", known.into_iter()), Some("max_restarts"));
        assert_eq!(nearest("enb", known.into_iter()), Some("env"));
        assert_eq!(nearest("description", known.into_iter()), None);
        assert_eq!(nearest(&"x".repeat(1000), known.into_iter()), None);
    }
}
