"""Records that are encoded in one go are what kafka-python itself reads back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record.memory_records import MemoryRecords

from streaming.bulk_producer import OutRecord, encoded_batches

BYTES = st.one_of(st.none(), st.binary(max_size=300))
HEADERS = st.lists(st.tuples(st.text(max_size=5), BYTES), max_size=3)
TIMES = st.integers(0, 2**45)
RECORDS = st.lists(st.builds(OutRecord, BYTES, BYTES, HEADERS, TIMES), min_size=1, max_size=30)
LZ4 = 3


@settings(deadline=None)
@given(RECORDS, st.sampled_from([0, LZ4]), st.sampled_from([200, 1_000, 262_144]))
def test_records_are_read_back(records: list[OutRecord], compression: int, most_bytes: int) -> None:
    found = []
    for builder in encoded_batches(records, compression, most_bytes):
        count, size = builder.next_offset(), builder.size_in_bytes()
        assert size <= most_bytes or count == 1
        builder.set_producer_state(7, 0, 0, True)
        builder.close()
        [batch] = MemoryRecords(builder.buffer())
        assert batch.validate_crc()
        read = list(batch)
        assert [record.offset for record in read] == list(range(count))
        assert batch.max_timestamp == max(record.timestamp for record in read)
        found += [OutRecord(r.key, r.value, [(name, value) for name, value in r.headers], r.timestamp) for r in read]
    assert found == records
