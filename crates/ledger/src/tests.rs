use super::*;

const ALONE: NodeId = NodeId(1);

fn open(store: Box<dyn Store>, seed: u64) -> Ledger {
    Ledger::open(LedgerConfig::new(ALONE), store, seed, Time::ZERO).unwrap()
}

fn propose(ledger: &mut Ledger, number: u64, entry: &[u8]) {
    let proposal = ProposalId(number);
    ledger.handle(Time::ZERO, Input::Propose { proposal, entry: entry.to_vec() });
}

fn decided(ledger: &mut Ledger) -> Vec<(Vec<u8>, Option<u64>)> {
    let outputs = ledger.drain().filter_map(|output| match output {
        Output::Committed { entry, proposal, .. } => Some((entry, proposal.map(|p| p.0))),
        Output::Send { .. }
        | Output::Refused { .. }
        | Output::Leadership { .. }
        | Output::Confirmed { .. }
        | Output::Electorate(_)
        | Output::TakeSnapshot { .. }
        | Output::Restored { .. }
        | Output::Failed { .. } => None,
    });
    outputs.collect()
}

#[test]
fn a_sole_voter_leads_and_decides_without_waiting() {
    let mut ledger = open(Box::new(MemoryStore::default()), 1);

    ledger.handle(Time::ZERO, Input::Bootstrap { voters: vec![ALONE] });
    propose(&mut ledger, 7, b"first");

    let outputs: Vec<Output> = ledger.drain().collect();
    assert!(outputs.contains(&Output::Leadership { leads: true, leader: Some(ALONE) }));
    assert!(outputs.iter().any(|output| matches!(
        output,
        Output::Committed { entry, proposal: Some(ProposalId(7)), .. } if entry == b"first"
    )));
}

#[test]
fn syn_05_decided_entries_are_told_again_after_a_restart_but_are_nobodys_proposals() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.redb");
    let mut ledger = open(Box::new(DiskStore::open(&path).unwrap()), 1);
    ledger.handle(Time::ZERO, Input::Bootstrap { voters: vec![ALONE] });
    for number in 1..=5 {
        propose(&mut ledger, number, &number.to_be_bytes());
    }
    drop(ledger);

    let mut ledger = open(Box::new(DiskStore::open(&path).unwrap()), 2);
    propose(&mut ledger, 1, b"next");

    let decided = decided(&mut ledger);
    let old: Vec<_> = (1..=5u64).map(|number| (number.to_be_bytes().to_vec(), None)).collect();
    assert_eq!(decided[..5], old);
    assert_eq!(decided[5], (b"next".to_vec(), Some(1)));
}

#[test]
fn syn_08_a_snapshot_takes_the_place_of_old_entries() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.redb");
    let mut config = LedgerConfig::new(ALONE);
    config.snapshot_after = 50;
    let store = Box::new(DiskStore::open(&path).unwrap());
    let mut ledger = Ledger::open(config.clone(), store, 1, Time::ZERO).unwrap();
    ledger.handle(Time::ZERO, Input::Bootstrap { voters: vec![ALONE] });
    for number in 1..=200 {
        propose(&mut ledger, number, b"entry");
        ledger.handle(Time::from_millis(number * 10), Input::Tick);
        let outputs: Vec<Output> = ledger.drain().collect();
        for output in outputs {
            if let Output::TakeSnapshot { index } = output {
                let snapshot = index.to_be_bytes().to_vec();
                ledger.handle(Time::from_millis(number * 10), Input::Snapshot { snapshot });
            }
        }
    }
    assert!(ledger.log_len() < 110, "{} entries are kept", ledger.log_len());
    drop(ledger);

    let store = Box::new(DiskStore::open(&path).unwrap());
    let mut ledger = Ledger::open(config, store, 2, Time::ZERO).unwrap();
    ledger.handle(Time::ZERO, Input::Tick);

    let outputs: Vec<Output> = ledger.drain().collect();
    let Some(Output::Restored { snapshot }) = outputs.first() else {
        panic!("the snapshot comes first, not {outputs:?}");
    };
    let index = u64::from_be_bytes(snapshot.as_slice().try_into().unwrap());
    let first = outputs.iter().find_map(|output| match output {
        Output::Committed { index, .. } => Some(*index),
        _ => None,
    });
    assert!(first.is_none_or(|first| first > index), "entry {first:?} is in snapshot {index}");
}

#[test]
fn ldr_03_quorum_follows_the_number_of_voters() {
    assert_eq!([1, 2, 3, 4, 5, 6, 7].map(quorum), [1, 2, 2, 3, 3, 4, 4]);
}

/// A disk that is full.
#[derive(Debug, Default)]
struct FullDisk;

impl Store for FullDisk {
    fn recover(&mut self) -> io::Result<Recovered> {
        Ok(Recovered::default())
    }

    fn write(&mut self, _: &[Write]) -> io::Result<()> {
        Err(io::Error::other("no space left on device"))
    }
}

#[test]
fn a_full_disk_stops_the_node_loudly_and_acknowledges_nothing() {
    let mut ledger = open(Box::new(FullDisk), 1);

    ledger.handle(Time::ZERO, Input::Bootstrap { voters: vec![ALONE] });
    propose(&mut ledger, 1, b"lost");

    let outputs: Vec<Output> = ledger.drain().collect();
    assert!(outputs.iter().any(|output| matches!(output, Output::Failed { .. })), "{outputs:?}");
    assert!(!outputs.iter().any(|output| matches!(output, Output::Committed { .. })));
}
