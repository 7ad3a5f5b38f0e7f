//! Values in numbered places, and indices by which such a place is found. Of a million values any may be next, so what
//! counts is how much memory a search touches: an index has four bytes for each, and reads the key where the value lies;
//! values lie close to each other, and a new one takes the place that was left last, which is still in the cache. It
//! knows nothing of what it keeps.

use std::{
    cell::Cell,
    hash::{BuildHasher, Hash},
};

use foldhash::fast::RandomState;
use hashbrown::{HashTable, hash_table::Entry};

/// So many values are allocated at once: enough to be few allocations, and little where few are kept.
const AT_ONCE: usize = 64;

/// A place; whoever takes a value away also takes its place out of every index.
pub type Place = u32;

/// Values in their places.
pub struct Places<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<Place>,
    taken: usize,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), taken: 0 }
    }
}

impl<T> Places<T> {
    /// Gives a value a place.
    pub fn put(&mut self, value: T) -> Place {
        self.taken += 1;
        if let Some(place) = self.free.pop() {
            if let Some(slot) = self.slot(place) {
                *slot = Some(value);
            }
            return place;
        }
        // None was left, so all before this are taken.
        let place = Place::try_from(self.taken - 1).unwrap_or(Place::MAX);
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < AT_ONCE => chunk.push(Some(value)),
            Some(_) | None => {
                let mut chunk = Vec::with_capacity(AT_ONCE);
                chunk.push(Some(value));
                self.chunks.push(chunk);
            }
        }
        place
    }

    /// What is there.
    pub fn get(&self, place: Place) -> Option<&T> {
        let place = place as usize;
        self.chunks.get(place / AT_ONCE)?.get(place % AT_ONCE)?.as_ref()
    }

    /// What is there, to change it.
    pub fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        self.slot(place)?.as_mut()
    }

    /// Takes away what is there.
    pub fn take(&mut self, place: Place) -> Option<T> {
        let value = self.slot(place)?.take()?;
        self.taken -= 1;
        self.free.push(place);
        Some(value)
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten().flatten()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.taken
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.taken == 0
    }

    fn slot(&mut self, place: Place) -> Option<&mut Option<T>> {
        let place = place as usize;
        self.chunks.get_mut(place / AT_ONCE)?.get_mut(place % AT_ONCE)
    }
}

/// Places by a key of what is there. Keys come from the traffic, so where one lies is secret: nobody can choose those that
/// lie at the same spot.
#[derive(Default)]
pub struct Index<S = RandomState> {
    places: HashTable<Place>,
    hasher: S,
    /// What [`Self::get_again`] found last.
    last: Cell<Place>,
}

impl<S: BuildHasher> Index<S> {
    /// The place of the value with this key; `key_of` gives that of a value that is indexed here.
    pub fn get<K: Hash + Eq + Copy>(&self, key: K, key_of: impl Fn(Place) -> Option<K>) -> Option<Place> {
        let hash = self.hasher.hash_one(key);
        self.places.find(hash, |&other| key_of(other).as_ref() == Some(&key)).copied()
    }

    /// The same, of keys that no two values have at a time, and that are asked for several times in a row: all but the first
    /// time without a search.
    pub fn get_again<K: Hash + Eq + Copy>(
        &self,
        key: K,
        key_of: impl Fn(Place) -> Option<K>,
    ) -> Option<Place> {
        let last = self.last.get();
        if key_of(last).as_ref() == Some(&key) {
            return Some(last);
        }
        let place = self.get(key, key_of)?;
        self.last.set(place);
        Some(place)
    }

    /// From now on, this place is found by `key`, and no other is.
    pub fn put<K: Hash + Eq + Copy>(&mut self, key: K, place: Place, key_of: impl Fn(Place) -> Option<K>) {
        self.put_unless(key, place, key_of, |_| false);
    }

    /// From now on, this place is found by `key`, unless another is that `stays`.
    pub fn put_unless<K: Hash + Eq + Copy>(
        &mut self,
        key: K,
        place: Place,
        key_of: impl Fn(Place) -> Option<K>,
        stays: impl Fn(Place) -> bool,
    ) {
        let Self { places, hasher, .. } = self;
        let hash = hasher.hash_one(key);
        let is_same = |&other: &Place| key_of(other).as_ref() == Some(&key);
        let rehash = |&other: &Place| key_of(other).map_or(0, |key| hasher.hash_one(key));
        match places.entry(hash, is_same, rehash) {
            Entry::Occupied(entry) if stays(*entry.get()) => {}
            Entry::Occupied(mut entry) => *entry.get_mut() = place,
            Entry::Vacant(entry) => drop(entry.insert(place)),
        }
    }

    /// This place is not found by `key` any more, if it was.
    pub fn take<K: Hash>(&mut self, key: K, place: Place) {
        if let Ok(entry) = self.places.find_entry(self.hasher.hash_one(key), |&other| other == place) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_was_left_is_taken_first() {
        let mut places = Places::default();
        let all: Vec<Place> = (0..200).map(|n| places.put(n)).collect();
        assert_eq!((places.len(), places.get(all[130])), (200, Some(&130)));
        assert_eq!((places.take(all[7]), places.take(all[7]), places.len()), (Some(7), None, 199));
        assert_eq!((places.put(1_000), places.get(all[7])), (all[7], Some(&1_000)));
        assert_eq!(places.put(1_001), 200);
        assert_eq!(places.iter().sum::<i32>(), (0..200).sum::<i32>() - 7 + 2_001);
    }

    #[test]
    fn what_was_found_last_is_found_again_for_as_long_as_it_is_there() {
        let mut places = Places::default();
        let mut index: Index = Index::default();
        for n in [10, 20] {
            let place = places.put(n);
            index.put(n, place, |other| places.get(other).copied());
        }
        let find =
            |places: &Places<i32>, index: &Index, n| index.get_again(n, |other| places.get(other).copied());
        for (n, place) in [(20, Some(1)), (20, Some(1)), (10, Some(0)), (30, None), (10, Some(0))] {
            assert_eq!(find(&places, &index, n), place);
        }
        index.take(10, 0);
        places.take(0);
        assert_eq!(find(&places, &index, 10), None);
        index.put(30, places.put(30), |other| places.get(other).copied());
        assert_eq!((find(&places, &index, 10), find(&places, &index, 30)), (None, Some(0)), "the same place");
    }

    #[test]
    fn a_key_finds_one_place() {
        let mut places = Places::default();
        let mut index: Index = Index::default();
        let all: Vec<Place> = (0..1_000).map(|n| places.put(n / 2)).collect();
        for &place in &all {
            let key = places.get(place).copied();
            index.put(key, place, |other| Some(places.get(other).copied()));
        }
        let find = |index: &Index, n| index.get(Some(n), |other| Some(places.get(other).copied()));
        assert_eq!((find(&index, 7), find(&index, 499), find(&index, 500)), (Some(15), Some(999), None));
        index.take(Some(7), 14); // it is another's
        assert_eq!(find(&index, 7), Some(15));
        index.take(Some(7), 15);
        assert_eq!(find(&index, 7), None);
    }
}
