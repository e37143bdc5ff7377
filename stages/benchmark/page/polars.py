# polars
import numpy, polars
e = polars.read_parquet("artifacts/embed/embeddings.parquet")
v = e["embedding"].to_numpy()
e = e.with_columns(distance=numpy.linalg.norm(v - v[7], axis=1)).filter(polars.col("id") != 7)
print(e.sort("distance", "id").select("id", "path", "distance").head(5))
