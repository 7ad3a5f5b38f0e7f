//! What happened to flows, in the order in which it did. Whoever is done before its turn gives up its place, so that nobody
//! is looked up who has long been served. It knows no flows.

use std::collections::VecDeque;

/// Flows by a time.
#[derive(Default)]
pub struct Queue {
    /// Time and flow; none: the place was given up.
    places: VecDeque<Option<(u64, u64)>>,
    /// The number of the first place that is left.
    first: u64,
}

impl Queue {
    /// Something happened to `flow`; gives the number of its place. If it did before what is there, it waits for that.
    pub fn push(&mut self, time: u64, flow: u64) -> u64 {
        self.places.push_back(Some((time, flow)));
        self.first + self.places.len() as u64 - 1
    }

    /// Whoever has this place, if anybody still has, waits no longer.
    pub fn give_up(&mut self, place: u64) {
        let index = place.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some(place) = index.and_then(|index| self.places.get_mut(index)) {
            *place = None;
        }
    }

    /// The flow that is first, if what happened to it did by `time`. Each is given once.
    pub fn pop(&mut self, time: u64) -> Option<u64> {
        while let Some(place) = self.places.front() {
            if place.is_some_and(|(happened, _)| happened > time) {
                return None;
            }
            self.first += 1;
            if let Some(Some((_, flow))) = self.places.pop_front() {
                return Some(flow);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_still_waits_comes_first() {
        let mut queue = Queue::default();
        let places: Vec<u64> = (1..=4).map(|n| queue.push(n * 10, n)).collect();
        queue.give_up(places[1]);
        assert_eq!([queue.pop(30), queue.pop(30), queue.pop(30)], [Some(1), Some(3), None]);
        queue.give_up(places[0]); // long gone
        assert_eq!([queue.pop(40), queue.pop(40)], [Some(4), None]);
        assert_eq!(queue.push(50, 5), 4);
        queue.give_up(4);
        assert_eq!(queue.pop(60), None);
    }
}
