# Serve a model over HTTP, see docs/how-to/serve.md:
#   docker build -t llamavae . && docker run -e LLAMAVAE_API_KEY=KEY -p 8000:8000 llamavae --model mini
# NOT BUILT YET: there was no container engine at hand. pip install and the service were run without one.
FROM python:3.11-slim
WORKDIR /opt/llamavae
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt '.[serve]'
RUN useradd --create-home llamavae
RUN mkdir -p /home/llamavae/.cache && chown -R llamavae: /home/llamavae
USER llamavae
WORKDIR /home/llamavae
# backbones of models are stored here
VOLUME /home/llamavae/.cache
EXPOSE 8000
# with another --port, change it here too
HEALTHCHECK --start-period=5m CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["llamavae", "serve", "--host", "0.0.0.0"]
CMD ["--model", "mini"]
