//! The requests that wait for an answer, in the order in which they were made. One that is answered gives up its place, so
//! that when deadlines pass nobody is looked up who has long been served.

use std::collections::VecDeque;

#[derive(Default)]
pub(super) struct Waiting {
    /// Time and flow; none: the place was given up.
    places: VecDeque<Option<(u64, u64)>>,
    /// The number of the first place that is left.
    first: u64,
}

impl Waiting {
    /// A request was made on `flow`; gives the number of its place.
    pub(super) fn push(&mut self, time: u64, flow: u64) -> u64 {
        self.places.push_back(Some((time, flow)));
        self.first + self.places.len() as u64 - 1
    }

    /// Whoever has this place, if anybody still has, waits no longer.
    pub(super) fn give_up(&mut self, place: u64) {
        let index = place.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some(place) = index.and_then(|index| self.places.get_mut(index)) {
            *place = None;
        }
    }

    /// The flow of the oldest request, if that was made by `time`. Each is given once.
    pub(super) fn pop(&mut self, time: u64) -> Option<u64> {
        while let Some(place) = self.places.front() {
            if place.is_some_and(|(asked, _)| asked > time) {
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
        let mut waiting = Waiting::default();
        let places: Vec<u64> = (1..=4).map(|n| waiting.push(n * 10, n)).collect();
        waiting.give_up(places[1]);
        assert_eq!([waiting.pop(30), waiting.pop(30), waiting.pop(30)], [Some(1), Some(3), None]);
        waiting.give_up(places[0]); // long gone
        assert_eq!([waiting.pop(40), waiting.pop(40)], [Some(4), None]);
        assert_eq!(waiting.push(50, 5), 4);
        waiting.give_up(4);
        assert_eq!(waiting.pop(60), None);
    }
}
