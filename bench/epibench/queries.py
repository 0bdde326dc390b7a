"""The queries Q1–Q14: one text each, and what the dialects say otherwise.

`div(a, b)` is the division of integers, `days(d)` the days of a date since 1970; numbers that must be floating point are
written with an exponent, since `100.0` is a decimal to some. Literals in braces are drawn anew for every run.
"""

import dataclasses
import datetime
import random
import re

FIRST_DAY = datetime.date(2021, 1, 1)
LAST_DAY = datetime.date(2025, 12, 31)
REGIONS, REGIONS_PER_STATE, AGE_GROUPS = 3_200, 64, 9
# As common as the generator makes them: people ask most about what is common.
DISEASES = {
    "COVID19": 40, "INFLUENZA": 20, "RSV": 12, "MEASLES": 6, "PERTUSSIS": 5, "DENGUE": 5, "CHOLERA": 4, "TB": 3, "HEPATITIS": 2,
    "MPOX": 1.5, "EBOLA": 1, "POLIO": 0.5,
}  # fmt: skip
EXPORT_ROWS = 10_000_000

# The policy of Q14, and the filter that the peers get by hand.
THREE_STATES = "region_id BETWEEN 64 AND 255"

COLUMNS = (
    "event_id, event_ts, event_date, region_id, facility_id, disease_code, event_type, result, age_group, sex, variant, onset_date, "
    "ct_value, person_id"
)


@dataclasses.dataclass(frozen=True)
class Query:
    name: str
    title: str
    text: str
    # Selective queries are asked with new literals; the others read the whole table.
    selective: bool = False
    # The user who asks Lazaret; what another user's policy hides, the peers' text filters by hand.
    user: str = "national"
    by_hand: str | None = None
    # Texts of single dialects.
    other: dict = dataclasses.field(default_factory=dict)
    # Answers without ORDER BY are compared in this column's order.
    sorted_by: str | None = None

    def sql(self, dialect, literals):
        text = self.text if dialect == "lazaret" else self.other.get(dialect) or self.by_hand or self.text
        text = " ".join(text.format(**literals).split())
        for function, spelt in DIALECTS[dialect].items():
            text = re.sub(rf"\b{function}\(([^()]*)\)", lambda call: spelt.format(*(part.strip() for part in call[1].split(","))), text)
        return text


DATAFUSION = {"div": "({0} / {1})", "days": "CAST({0} AS INT)"}
DIALECTS = {
    "lazaret": DATAFUSION,
    "datafusion": DATAFUSION,
    "roapi": DATAFUSION,
    "duckdb": {"div": "({0} // {1})", "days": "({0} - DATE '1970-01-01')"},
    "pyspark": {"div": "({0} div {1})", "days": "unix_date({0})"},
    "chdb": {"div": "intDiv({0}, {1})", "days": "toInt32({0})"},
}

MOVING_AVERAGE = """
    WITH daily AS (
        SELECT disease_code, event_date, count(*) AS cases FROM events
        WHERE event_type = 'CASE' AND region_id BETWEEN {state_first} AND {state_last}
          AND event_date >= DATE '{years_start}' AND event_date < DATE '{years_end}'
        GROUP BY disease_code, event_date)
    SELECT disease_code, event_date, cases,
           sum(cases) OVER (PARTITION BY disease_code ORDER BY event_date RANGE BETWEEN %s PRECEDING AND CURRENT ROW) / 7e0 AS average
    FROM daily ORDER BY disease_code, event_date"""

WEEKLY_INCIDENCE = """
    WITH weekly AS (
        SELECT region_id, age_group, date_trunc('week', event_date) AS week, count(*) AS cases FROM events
        WHERE event_type = 'CASE' AND disease_code = '{disease}' AND event_date >= DATE '{year_start}' AND event_date < DATE '{year_end}'%s
        GROUP BY region_id, age_group, week)
    SELECT w.region_id, w.age_group, w.week, w.cases, w.cases * 1e5 / CASE w.age_group """ + " ".join(
    f"WHEN {age} THEN r.population_age_{age}" for age in range(AGE_GROUPS)
) + """ END AS incidence
    FROM weekly w JOIN region r ON r.region_id = w.region_id ORDER BY w.region_id, w.age_group, w.week"""  # fmt: skip

VACCINATED = """
    SELECT e.age_group, {vaccinated} AS vaccinated, sum(CASE WHEN e.event_type = 'CASE' THEN 1 ELSE 0 END) AS cases,
           sum(CASE WHEN e.event_type = 'HOSP' THEN 1 ELSE 0 END) AS admissions
    FROM events e WHERE e.disease_code = 'COVID19' AND e.event_type IN ('CASE', 'HOSP') AND {exists} (
        SELECT 1 FROM events v WHERE v.event_type = 'VACC' AND v.disease_code = 'COVID19' AND v.person_id = e.person_id
          AND v.event_date + INTERVAL '14' DAY <= e.event_date)
    GROUP BY e.age_group"""

QUERIES = [
    Query(
        "Q1", "one person's history", selective=True,
        text="SELECT event_id, event_ts, disease_code, event_type, result, variant, region_id, facility_id FROM events "
        "WHERE person_id = {person} ORDER BY event_ts, event_id",
    ),
    Query("Q2", "one event by id", f"SELECT {COLUMNS} FROM events WHERE event_id = {{event}}", selective=True),
    Query(
        "Q3", "7 days, one region and disease", selective=True,
        text="SELECT event_date, event_type, count(*) AS n, count(DISTINCT person_id) AS persons FROM events WHERE region_id = {region} "
        "AND disease_code = '{disease}' AND event_date BETWEEN DATE '{days_start}' AND DATE '{days_end}' "
        "GROUP BY event_date, event_type ORDER BY event_date, event_type",
    ),
    Query(
        "Q4", "7-day moving average of cases, one state, 2 years", MOVING_AVERAGE % "INTERVAL '6' DAY", selective=True,
        other={"chdb": MOVING_AVERAGE % "6"},  # a range over dates is in days there
    ),
    Query("Q5", "weekly incidence by region and age, one disease, 52 weeks", WEEKLY_INCIDENCE % "", selective=True),
    # Wilson's interval with z = 1.959964, in counts: (x + z²/2 ± z √(x (n − x) / n + z²/4)) / (n + z²).
    Query(
        "Q6", "test positivity by state and week, Wilson interval",
        """SELECT state, week, tests, positive, positive * 1e0 / tests AS positivity,
                  (positive + 1.92072944e0 - 1.959964e0 * sqrt(positive * 1e0 * (tests - positive) / tests + 0.96036472e0))
                    / (tests + 3.84145888e0) AS low,
                  (positive + 1.92072944e0 + 1.959964e0 * sqrt(positive * 1e0 * (tests - positive) / tests + 0.96036472e0))
                    / (tests + 3.84145888e0) AS high
           FROM (SELECT div(region_id, 64) AS state, date_trunc('week', event_date) AS week, count(*) AS tests,
                        sum(CASE WHEN result = 'POS' THEN 1 ELSE 0 END) AS positive
                 FROM events WHERE event_type = 'TEST' AND result IN ('POS', 'NEG') GROUP BY state, week) AS counts
           ORDER BY state, week""",
    ),
    # Cori et al. 2013, doi:10.1093/aje/kwt133: the posterior mean of R over 7 days under a gamma prior of shape 1 and scale 5,
    # (1 + Σ I_s) / (1/5 + Σ Λ_s) with Λ_s = Σ_k w_k I_{s-k}. Days without a row have neither cases nor infectious people.
    # The first four weeks are left out, where infections before the data are missing.
    Query(
        "Q7", "R(t) by state, 7-day window",
        """WITH daily AS (
               SELECT r.state_id, days(e.onset_date) AS day, count(*) AS cases
               FROM events e JOIN region r ON r.region_id = e.region_id
               WHERE e.event_type = 'CASE' AND e.disease_code = 'COVID19' GROUP BY r.state_id, days(e.onset_date)),
           series AS (
               SELECT state_id, day, sum(cases) AS infected, sum(pressure) AS infectious FROM (
                   SELECT state_id, day, cases, 0e0 AS pressure FROM daily
                   UNION ALL SELECT d.state_id, d.day + s.k, 0, d.cases * s.w_k FROM daily d CROSS JOIN serial_interval s) AS parts
               GROUP BY state_id, day),
           windows AS (
               SELECT state_id, day, sum(infected) OVER seven AS infected_7, sum(infectious) OVER seven AS infectious_7 FROM series
               WINDOW seven AS (PARTITION BY state_id ORDER BY day RANGE BETWEEN 6 PRECEDING AND CURRENT ROW))
           SELECT state_id, day, (1e0 + infected_7) / (2e-1 + infectious_7) AS r, sqrt(1e0 + infected_7) / (2e-1 + infectious_7) AS deviation
           FROM windows WHERE day BETWEEN days(DATE '2021-01-29') AND days(DATE '2025-12-31') ORDER BY state_id, day""",
    ),
    Query(
        "Q8", "case fatality by age and variant, 14 and 28 days",
        """SELECT c.age_group, c.variant, count(*) AS cases,
                  sum(CASE WHEN d.died BETWEEN c.event_date AND c.event_date + INTERVAL '14' DAY THEN 1 ELSE 0 END) AS died_14,
                  sum(CASE WHEN d.died BETWEEN c.event_date AND c.event_date + INTERVAL '28' DAY THEN 1 ELSE 0 END) AS died_28,
                  sum(CASE WHEN d.died BETWEEN c.event_date AND c.event_date + INTERVAL '28' DAY THEN 1 ELSE 0 END) * 1e0 / count(*)
                    AS fatality
           FROM events c LEFT JOIN (
               SELECT person_id, min(event_date) AS died FROM events WHERE event_type = 'DEATH' AND disease_code = 'COVID19'
               GROUP BY person_id) AS d ON d.person_id = c.person_id
           WHERE c.event_type = 'CASE' AND c.disease_code = 'COVID19' GROUP BY c.age_group, c.variant ORDER BY c.age_group, c.variant""",
    ),
    Query(
        "Q9", "hospitalisation of vaccinated against unvaccinated",
        "SELECT * FROM (" + VACCINATED.format(vaccinated=1, exists="EXISTS") + " UNION ALL "
        + VACCINATED.format(vaccinated=0, exists="NOT EXISTS") + ") AS groups ORDER BY age_group, vaccinated",
    ),
    # One is added to both counts, or regions with one case and none before would lead.
    Query(
        "Q10", "the 20 fastest-growing regions, week on week", selective=True,
        text="""SELECT g.region_id, r.name, g.this_week, g.last_week, (g.this_week + 1e0) / (g.last_week + 1e0) AS growth FROM (
                    SELECT region_id, sum(CASE WHEN event_date >= DATE '{week}' THEN 1 ELSE 0 END) AS this_week,
                           sum(CASE WHEN event_date < DATE '{week}' THEN 1 ELSE 0 END) AS last_week
                    FROM events WHERE event_type = 'CASE' AND disease_code = '{disease}'
                      AND event_date >= DATE '{week_before}' AND event_date < DATE '{week_after}' GROUP BY region_id) AS g
                JOIN region r ON r.region_id = g.region_id ORDER BY growth DESC, g.region_id LIMIT 20""",
    ),
    Query(
        "Q11", "distinct persons by disease and month",
        "SELECT disease_code, date_trunc('month', event_date) AS month, count(DISTINCT person_id) AS persons FROM events "
        "GROUP BY disease_code, month ORDER BY disease_code, month",
    ),
    Query(
        "Q12", "everything by facility and event type",
        "SELECT facility_id, event_type, count(*) AS n FROM events GROUP BY facility_id, event_type ORDER BY facility_id, event_type",
    ),
    Query("Q13", "export of 10 M rows", f"SELECT {COLUMNS} FROM events WHERE event_id < {EXPORT_ROWS}", sorted_by="event_id"),
    Query(
        "Q14", "Q5 under a policy of three states", WEEKLY_INCIDENCE % "", selective=True, user="regional",
        by_hand=WEEKLY_INCIDENCE % f" AND {THREE_STATES}",
    ),
]  # fmt: skip
SELECTIVE = [query for query in QUERIES if query.selective]


class Draws:
    """Literals for the queries, the same in every run with the same seed."""

    def __init__(self, seed, events, persons):
        self.random = random.Random(seed)
        self.events, self.persons = events, persons

    def next(self):
        state = self.random.randrange(REGIONS // REGIONS_PER_STATE)
        days = self.random.randrange((LAST_DAY - FIRST_DAY).days - 5)
        years = self.random.randrange((LAST_DAY - FIRST_DAY).days - 729)
        monday = FIRST_DAY + datetime.timedelta(days=-FIRST_DAY.weekday() % 7)
        weeks = (LAST_DAY - monday).days // 7
        year, week = self.random.randrange(weeks - 51), self.random.randrange(1, weeks)
        after = lambda day, count: day + datetime.timedelta(days=count)  # noqa: E731
        return {
            "person": self.random.randrange(self.persons),
            "event": self.random.randrange(self.events),
            "region": self.random.randrange(REGIONS),
            "disease": self.random.choices(list(DISEASES), list(DISEASES.values()))[0],
            "state_first": state * REGIONS_PER_STATE,
            "state_last": state * REGIONS_PER_STATE + REGIONS_PER_STATE - 1,
            "days_start": after(FIRST_DAY, days),
            "days_end": after(FIRST_DAY, days + 6),
            "years_start": after(FIRST_DAY, years),
            "years_end": after(FIRST_DAY, years + 730),
            "year_start": after(monday, year * 7),
            "year_end": after(monday, (year + 52) * 7),
            "week_before": after(monday, (week - 1) * 7),
            "week": after(monday, week * 7),
            "week_after": after(monday, (week + 1) * 7),
        }
