//! "Did you mean": the nearest of the known names.

/// The known name nearest to what was typed, if one is near enough to have been meant.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bound = (typed.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|name| (distance(&typed.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Damerau-Levenshtein distance (optimal string alignment): a swap of neighbours is the commonest slip of the keyboard.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["start", "stop", "restart", "list", "delete"];
        assert_eq!(nearest("strat", known), Some("start"));
        assert_eq!(nearest("STOP", known), Some("stop"));
        assert_eq!(nearest("resart", known), Some("restart"));
        assert_eq!(nearest("bananas", known), None);
        assert_eq!(nearest("x", known), None);
    }
}
