from rag_pipeline.cli import main

main(prog_name="rag")
