//! The mass-death guard: a rush of answers that call addresses wrong is more likely our own fault (wrong project, wrong topic) than
//! the end of so many devices. Pure.

use std::collections::VecDeque;

/// How many of the latest answers are looked at.
const WINDOW: usize = 1_000;
/// Answers older than this no longer count: an address set aside is tried again after as long.
const WINDOW_MS: i64 = 86_400_000;
/// Suspect answers that are always tolerated, and beyond them per cent of the window.
const SUSPECTS_MIN: usize = 20;
const SUSPECTS_PER_CENT: usize = 2;
/// Dead answers above this share of at least so many answers raise an alarm, at most once an hour.
const DEAD_PER_CENT: usize = 30;
const DEAD_SAMPLES_MIN: usize = 100;
const RUSH_EVERY_MS: i64 = 3_600_000;

/// How an answer judged the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Alive,
    Suspect,
    Dead,
}

/// What the guard concludes from the latest answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    Fine,
    /// The suspects since `since_ms` (Unix milliseconds) are to be believed alive, and the sender is at fault.
    MassDeath {
        since_ms: i64,
    },
    /// Worth an alarm; the deaths stand.
    DeathRush,
}

/// The last 1,000 answers.
#[derive(Debug, Default)]
pub struct Guard {
    answers: VecDeque<(i64, Fate)>,
    suspects: usize,
    dead: usize,
    rush_at_ms: Option<i64>,
}

impl Guard {
    /// Takes one answer into account.
    pub fn record(&mut self, now_ms: i64, fate: Fate) -> Judgement {
        while self.answers.len() >= WINDOW || self.answers.front().is_some_and(|(at_ms, _)| now_ms - at_ms > WINDOW_MS) {
            match self.answers.pop_front() {
                Some((_, Fate::Suspect)) => self.suspects -= 1,
                Some((_, Fate::Dead)) => self.dead -= 1,
                Some((_, Fate::Alive)) => {}
                None => break,
            }
        }
        self.answers.push_back((now_ms, fate));
        match fate {
            Fate::Alive => return Judgement::Fine,
            Fate::Suspect => self.suspects += 1,
            Fate::Dead => self.dead += 1,
        }
        let answers = self.answers.len();
        if fate == Fate::Suspect && self.suspects > SUSPECTS_MIN.max(answers * SUSPECTS_PER_CENT / 100) {
            let since_ms = self.answers.iter().find(|(_, fate)| *fate == Fate::Suspect).map_or(now_ms, |(at_ms, _)| *at_ms);
            self.forget();
            return Judgement::MassDeath { since_ms };
        }
        let rested = self.rush_at_ms.is_none_or(|at_ms| now_ms - at_ms >= RUSH_EVERY_MS);
        if fate == Fate::Dead && answers >= DEAD_SAMPLES_MIN && self.dead * 100 > answers * DEAD_PER_CENT && rested {
            self.rush_at_ms = Some(now_ms);
            return Judgement::DeathRush;
        }
        Judgement::Fine
    }

    /// Starts with an empty window: after a mass death and with a new credential.
    pub fn forget(&mut self) {
        self.answers.clear();
        self.suspects = 0;
        self.dead = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twenty_first_suspect_of_a_thousand_is_a_mass_death() {
        let mut guard = Guard::default();
        for at_ms in 0..900 {
            guard.record(at_ms, Fate::Alive);
        }
        for at_ms in 900..920 {
            assert_eq!(guard.record(at_ms, Fate::Suspect), Judgement::Fine);
        }
        assert_eq!(guard.record(920, Fate::Suspect), Judgement::MassDeath { since_ms: 900 });
        assert_eq!(guard.record(921, Fate::Suspect), Judgement::Fine, "the window starts afresh");
    }

    #[test]
    fn suspects_spread_over_many_answers_are_ordinary() {
        let mut guard = Guard::default();
        for nth in 0..100_000 {
            let fate = if nth % 60 == 0 { Fate::Suspect } else { Fate::Alive };
            assert_eq!(guard.record(nth, fate), Judgement::Fine);
        }
    }

    #[test]
    fn suspects_of_last_week_do_not_count() {
        let mut guard = Guard::default();
        for day in 0..60 {
            assert_eq!(guard.record(day * WINDOW_MS, Fate::Suspect), Judgement::Fine);
        }
    }

    #[test]
    fn many_deaths_alarm_once_an_hour() {
        let mut guard = Guard::default();
        let rushes = |guard: &mut Guard, from_ms: i64| {
            (0..500).filter(|nth| guard.record(from_ms + nth, Fate::Dead) == Judgement::DeathRush).count()
        };
        assert_eq!(rushes(&mut guard, 0), 1);
        assert_eq!(rushes(&mut guard, 1_000), 0);
        assert_eq!(rushes(&mut guard, RUSH_EVERY_MS + 1_000), 1);
    }
}
