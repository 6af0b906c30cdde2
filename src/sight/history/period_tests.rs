use super::*;
use crate::metrics::Metrics;

/// An hour in which everybody took `millis`.
fn hour(requests: u64, failures: u64, millis: f64, lent: u32, memory: u64) -> Bucket {
    let histogram = crate::sight::histogram::Histogram::default();
    (0..100).for_each(|_| histogram.record((millis * 1e6) as u64));
    let mut times = Vec::new();
    histogram.each(|at, count| times.push((at as u32, u64::from(count))));
    let spent = Spent {
        fingerprint: 7,
        text: "MATCH (n)".into(),
        user: "ann".into(),
        calls: requests,
        took: (requests as f64 * millis * 1e6) as u64,
        ..Spent::default()
    };
    Bucket {
        seconds: 3600,
        requests,
        failures,
        times,
        errors: BTreeMap::from([("Neo.X".to_owned(), failures)]),
        lent_sum: 3600 * u64::from(lent),
        lent_most: lent,
        connections: 100,
        host_memory: 10_000_000_000,
        host_used_last: memory,
        host_used_most: memory,
        queries: vec![spent],
        ..Bucket::default()
    }
}

fn this_hour() -> u64 {
    now() / 1000 / HOUR * HOUR
}

fn of(period: Period, fill: impl Fn(u64) -> Bucket, hours: u64) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for ago in (0..hours).rev() {
        let mut bucket = fill(ago);
        let queries = std::mem::take(&mut bucket.queries);
        let begin = this_hour() - ago * HOUR;
        store.add(begin, &Bucket { queries, ..bucket }, &[]).unwrap();
    }
    store
        .add(this_hour(), &Bucket::default(), &[((this_hour() * 1000, 1), json!({"level": "warning"}))])
        .unwrap();
    let sight = Sight::new(Arc::new(Metrics::new()));
    report(&store, period, &sight).unwrap()
}

#[test]
fn a_day_is_compared_with_the_day_before() {
    let report = of(
        Period::Daily,
        |ago| {
            if ago < 24 {
                hour(1000, 20, 8.0, 50, 4_000_000_000)
            } else {
                hour(500, 1, 4.0, 50, 4_000_000_000)
            }
        },
        48,
    );
    assert_eq!((report["period"].as_str(), report["parts"].as_array().unwrap().len()), (Some("daily"), 24));
    assert_eq!(
        (&report["totals"]["requests"], &report["before"]["requests"]),
        (&24_000.into(), &12_000.into())
    );
    assert_eq!(report["totals"]["observedSeconds"], 24 * 3600);
    assert_eq!(report["change"]["requestsPerSecond"], 2.0);
    let p50 = report["change"]["p50"].as_f64().unwrap();
    assert!((p50 - 2.0).abs() < 0.02, "{p50}");
    assert_eq!(report["errors"], json!([{"code": "Neo.X", "count": 480}]));
    assert_eq!(report["queries"][0]["change"], 2.0);
    assert_eq!(report["alerts"], json!([{"level": "warning"}]));
    // A straight line that does not rise fills nothing up.
    assert_eq!(report["capacity"]["daysToFullPool"], Value::Null);
    assert_eq!(
        (&report["capacity"]["poolShare"], &report["capacity"]["memoryShare"]),
        (&0.5.into(), &0.4.into())
    );
    let said = report["recommendations"].to_string();
    for words in [
        "2.0 % of all requests failed, most often Neo.X (480 times)",
        "p50 is 2.0 times",
        "MATCH (n): takes 2.0 times",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn what_grows_is_full_one_day() {
    // 24 connections and 240 MB more each day.
    let fill = |ago: u64| {
        let nth = 7 * 24 - ago;
        hour(1000, 0, 4.0, (nth / 4) as u32, 1_000_000_000 + nth * 10_000_000)
    };
    let report = of(Period::Weekly, fill, 7 * 24);
    let capacity = &report["capacity"];
    assert_eq!(report["parts"].as_array().unwrap().len(), 7);
    let pool = capacity["daysToFullPool"].as_f64().unwrap();
    assert!((9.0..11.5).contains(&pool), "{capacity}");
    let memory = capacity["daysToFullMemory"].as_f64().unwrap();
    assert!((28.0..33.0).contains(&memory), "{capacity}");
    let growth = capacity["memoryGrowthBytesPerDay"].as_f64().unwrap();
    assert!((growth - 240e6).abs() < 5e6, "{capacity}");
    assert!(
        report["recommendations"].to_string().contains("connections to Neo4j will be used up in"),
        "{report}"
    );
    assert_eq!(report["before"], Value::Null);
}

#[test]
fn what_only_scatters_does_not_grow() {
    let mut random = fastrand::Rng::with_seed(3);
    let values: Vec<u32> = (0..24).map(|_| random.u32(10..60)).collect();
    let report = of(Period::Daily, |ago| hour(10, 0, 1.0, values[ago as usize], 4_000_000_000), 24);
    assert_eq!(report["capacity"]["daysToFullPool"], Value::Null, "{}", report["capacity"]);
    // Nothing at all, and too little to tell.
    let empty = of(Period::Monthly, |_| Bucket::default(), 0);
    assert_eq!((&empty["capacity"], &empty["totals"]["p50Ms"]), (&Value::Null, &Value::Null));
    assert_eq!((empty["parts"].as_array().unwrap().len(), &empty["recommendations"]), (30, &json!([])));
    assert_eq!(growth(&[(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)]), None);
}

#[test]
fn days_stand_for_hours_that_are_gone() {
    let day = |nth: u64| (nth * DAY, hour(100, 0, 1.0, 1, 1));
    let hours = vec![(3 * DAY + HOUR, hour(7, 0, 1.0, 1, 1))];
    let all = with_days(hours, &[day(1), day(2), day(3)]);
    assert_eq!(
        all.iter().map(|(begin, bucket)| (*begin, bucket.requests)).collect::<Vec<_>>(),
        [(DAY, 100), (2 * DAY, 100), (3 * DAY + HOUR, 7)]
    );
    assert_eq!(with_days(Vec::new(), &[day(1)]).len(), 1);
}

#[test]
fn periods_have_names() {
    for period in [Period::Daily, Period::Weekly, Period::Monthly] {
        assert_eq!(Period::read(period.word()), Some(period));
    }
    assert_eq!(Period::read("yearly"), None);
}
