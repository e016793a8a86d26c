//! News to be passed on a limited number of times, the least told first.

use std::collections::{BTreeMap, BTreeSet};

/// What is to be told, by what it is about. Newer news takes the place of older.
#[derive(Debug, Clone)]
pub(crate) struct Broadcasts<K, V> {
    /// The news, and how often it was sent.
    entries: BTreeMap<K, (u32, V)>,
    /// The same keys, least sent first.
    order: BTreeSet<(u32, K)>,
}

impl<K: Ord + Copy, V> Broadcasts<K, V> {
    pub(crate) const fn new() -> Self {
        Self { entries: BTreeMap::new(), order: BTreeSet::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn insert(&mut self, key: K, news: V) {
        self.remove(key);
        self.entries.insert(key, (0, news));
        self.order.insert((0, key));
    }

    pub(crate) fn remove(&mut self, key: K) {
        if let Some((sent, _)) = self.entries.remove(&key) {
            self.order.remove(&(sent, key));
        }
    }

    /// Removes what lies in a range of keys.
    pub(crate) fn remove_range(&mut self, range: std::ops::RangeInclusive<K>) {
        let keys: Vec<K> = self.entries.range(range).map(|(&key, _)| key).collect();
        keys.into_iter().for_each(|key| self.remove(key));
    }

    /// Offers news to `take` until it refuses one, and forgets what was sent `most` times.
    pub(crate) fn send(&mut self, most: u32, mut take: impl FnMut(K, &V) -> bool) {
        let mut taken = Vec::new();
        for &(sent, key) in &self.order {
            if !self.entries.get(&key).is_some_and(|(_, news)| take(key, news)) {
                break;
            }
            taken.push((sent, key));
        }
        for (sent, key) in taken {
            self.order.remove(&(sent, key));
            if sent + 1 >= most {
                self.entries.remove(&key);
            } else if let Some(entry) = self.entries.get_mut(&key) {
                entry.0 = sent + 1;
                self.order.insert((sent + 1, key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(news: &mut Broadcasts<u64, &'static str>, room: usize) -> Vec<u64> {
        let mut told = Vec::new();
        news.send(2, |key, _| {
            let fits = told.len() < room;
            if fits {
                told.push(key);
            }
            fits
        });
        told
    }

    #[test]
    fn least_told_goes_first_and_each_goes_twice() {
        let mut news = Broadcasts::new();
        for key in 1..=3 {
            news.insert(key, "alive");
        }

        assert_eq!(send(&mut news, 2), [1, 2]);
        assert_eq!(send(&mut news, 2), [3, 1]);
        assert_eq!(send(&mut news, 2), [2, 3]);
        assert!(news.is_empty());
    }

    #[test]
    fn newer_news_starts_again() {
        let mut news = Broadcasts::new();
        news.insert(1, "alive");
        send(&mut news, 1);
        news.insert(1, "suspect");

        assert_eq!(send(&mut news, 1), [1]);
        assert_eq!(send(&mut news, 1), [1]);
        assert!(news.is_empty());
    }
}
