// Puts a figure that can be pointed at in the place of each picture that has one; in print the picture stays.
for (const image of document.querySelectorAll("img[data-figure]")) {
  const box = document.createElement("div");
  box.className = "curves";
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", image.alt);
  image.after(box);
  const { data, layout } = JSON.parse(image.dataset.figure);
  Plotly.newPlot(box, data, layout, { responsive: true, displaylogo: false }).then(() => image.classList.add("drawn"));
}
