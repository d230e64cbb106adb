//! Date and time in UTC, for names of run folders and for records that people read.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment of the proleptic Gregorian calendar in UTC, to the second; as in Unix time, leap seconds do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    pub year: i64,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
}

const DAY: i64 = 24 * 60 * 60;
/// Days of 400 years, after which the calendar repeats.
const ERA: i64 = 146_097;
/// Days from 1 March of year 0 to 1 January 1970.
const EPOCH: i64 = 719_468;

impl Civil {
    /// The moment `seconds` after (or, negative, before) 1970-01-01 00:00:00 UTC.
    ///
    /// Years are counted from March, so that the leap day is the last of its year and the months' lengths follow one
    /// linear formula: month m from March starts on day (153 m + 2) / 5.
    pub fn from_unix(seconds: i64) -> Civil {
        let days = seconds.div_euclid(DAY) + EPOCH;
        let (era, day_of_era) = (days.div_euclid(ERA), days.rem_euclid(ERA));
        let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / (ERA - 1);
        let year_of_era = (day_of_era - leap_days) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let time = seconds.rem_euclid(DAY);
        Civil {
            year: 400 * era + year_of_era + i64::from(month <= 2),
            month: month as u32,
            day: (day_of_year - (153 * from_march + 2) / 5 + 1) as u32,
            hour: (time / 3600) as u32,
            minute: (time / 60 % 60) as u32,
            second: (time % 60) as u32,
        }
    }

    /// Now, by the system's clock.
    pub fn now() -> Civil {
        let seconds = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_secs() as i64,
            Err(before) => -(before.duration().as_secs() as i64),
        };
        Civil::from_unix(seconds)
    }

    /// `2026-07-12T10:15:30Z`.
    pub fn iso8601(&self) -> String {
        let Civil { year, month, day, hour, minute, second } = self;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// `2026-07-12-101530`: sorts by time and is safe in a file name.
    pub fn stamp(&self) -> String {
        let Civil { year, month, day, hour, minute, second } = self;
        format!("{year:04}-{month:02}-{day:02}-{hour:02}{minute:02}{second:02}")
    }
}

/// Now, as `2026-07-12T10:15:30Z`.
pub fn utc_iso8601() -> String {
    Civil::now().iso8601()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_have_their_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"), // a leap year, though divisible by 100
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_000_000_000, "2001-09-09T01:46:40Z"),
            (1_234_567_890, "2009-02-13T23:31:30Z"),
            (2_147_483_647, "2038-01-19T03:14:07Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"), // the day after 28 February: no leap year
            (-2_208_988_800, "1900-01-01T00:00:00Z"),
        ] {
            assert_eq!(Civil::from_unix(seconds).iso8601(), expected, "{seconds}");
        }
        assert_eq!(Civil::from_unix(1_234_567_890).stamp(), "2009-02-13-233130");
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let month_lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..ERA {
            let date = Civil::from_unix(days * DAY + 3661);
            assert_eq!((date.year, date.month, date.day), (year, month, day));
            assert_eq!((date.hour, date.minute, date.second), (1, 1, 1));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            day += 1;
            if day > month_lengths[month as usize - 1] + u32::from(leap && month == 2) {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }
}
