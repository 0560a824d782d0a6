//! Ids are names for good: stores, reports and papers keep them, so no version may give an operator another one.

use std::collections::BTreeSet;
use syntune::synth::Operator;

/// One operator a line, `ID TEXT`: the library, the operators that Syno ships, and some synthesized ones. Lines are never changed.
const KEPT: &str = include_str!("ids.txt");

#[test]
fn a_hundred_operators_keep_their_ids_and_texts() {
    let mut ids = BTreeSet::new();
    for line in KEPT.lines() {
        let (id, text) = line.split_once(' ').unwrap();
        let operator = Operator::parse(text).unwrap();
        assert_eq!((operator.id().as_str(), operator.to_string().as_str()), (id, text));
        assert!(ids.insert(id), "{id} is the id of two operators");
    }
    assert_eq!(ids.len(), 100);
}
