//! Cycles of a graph.

use std::collections::{BTreeMap, BTreeSet};

/// Returns the strongly connected components of two nodes or more.
pub fn circles<'a>(edges: impl Iterator<Item = &'a (String, String)>) -> Vec<BTreeSet<String>> {
    let mut targets: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in edges {
        targets.entry(from).or_default().insert(to);
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        targets.keys().map(|node| (*node, reachable(&targets, node))).collect();
    let reaches = |from: &str, to: &str| reached.get(from).is_some_and(|nodes| nodes.contains(to));
    let circle_of = |node: &&str| -> BTreeSet<String> {
        let mutual = targets.keys().filter(|other| reaches(node, other) && reaches(other, node));
        mutual.map(|other| (*other).to_owned()).collect()
    };
    let circles: BTreeSet<BTreeSet<String>> = targets.keys().map(circle_of).collect();
    circles.into_iter().filter(|circle| circle.len() > 1).collect()
}

/// Returns all nodes reachable from `start`; `start` itself only if a path leads back.
fn reachable<'a>(targets: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![start];
    while let Some(node) = open.pop() {
        for target in targets.get(node).into_iter().flatten() {
            if reached.insert(*target) {
                open.push(target);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::circles;

    fn found(edges: &[(&str, &str)]) -> Vec<Vec<String>> {
        let edges: Vec<(String, String)> =
            edges.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect();
        circles(edges.iter()).into_iter().map(|circle| circle.into_iter().collect()).collect()
    }

    #[test]
    fn each_circle_is_found_once() {
        assert_eq!(found(&[("a", "b"), ("b", "c"), ("a", "c")]), [[""; 0]; 0]);
        assert_eq!(
            found(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("e", "d")]),
            [vec!["a", "b", "c"], vec!["d", "e"]]
        );
    }
}
