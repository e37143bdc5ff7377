-- DuckDB
SELECT b.id, b.path, array_distance(a.embedding::FLOAT[128], b.embedding::FLOAT[128]) AS distance
FROM 'artifacts/embed/embeddings.parquet' a, 'artifacts/embed/embeddings.parquet' b
WHERE a.id = 7 AND b.id <> a.id ORDER BY distance, b.id LIMIT 5
