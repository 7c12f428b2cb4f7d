// Draws every chart of the page from the JSON beside it. SVG, so that the style sheet can colour text for dark and print.
"use strict";
const specs = JSON.parse(document.querySelector('script[type="application/json"]').textContent);
for (const [id, spec] of Object.entries(specs)) {
  const place = document.getElementById(id);
  vegaEmbed(place, spec, { mode: "vega-lite", renderer: "svg", actions: false, tooltip: { theme: "custom" } })
    .catch((error) => {
      place.textContent = "This chart could not be drawn (" + error + "). Its numbers are in the tables.";
    });
}
